from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.encoders.recorded import require_same_encoder
from imgsim_assets.encoders.settings import EncoderSettings, EvaluationSettings
from imgsim_assets.encoders.table import latest_embeddings
from imgsim_assets.errors import StoreError
from imgsim_assets.evaluation.operating_points import OPERATING_POINTS, THRESHOLDS, floor_to_grid
from imgsim_assets.evaluation.recommendation import recommend_threshold
from imgsim_assets.evaluation.stage import EvaluationStage
from imgsim_assets.images.perturbations import PERTURBATIONS
from imgsim_assets.similarity.evaluation_table import evaluation_table
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, embed_shards, fill
from imgsim_assets_tests.support.images import jpeg

HOG_COLOR = EncoderSettings(name="hog_color")
DECLARED = EvaluationSettings(sample_size=3)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A catalog of 40 images."""
    store = Store.open(tmp_path_factory.mktemp("recommendation") / "store")
    embed_shards(
        store, "shop", HOG_COLOR, fill(store, "shop", {f"{n:02d}": jpeg(n) for n in range(40)})
    )
    return store


def test_any_budget_uses_one_evaluation(shop: Store) -> None:
    declared = EvaluationStage(shop, "shop", DECLARED).run()

    generous = recommend_threshold(shop, "shop", 0.3)
    same = recommend_threshold(shop, "shop", 0.01)
    strict = recommend_threshold(shop, "shop", 0.001)

    assert generous.threshold < same.threshold == declared.threshold < strict.threshold
    assert same.recall == declared.recall
    assert same.false_best_matches == declared.false_best_matches
    assert all(recommendation.is_measured for recommendation in (generous, same, strict))
    newest = evaluation_table(shop, "shop").latest()
    assert newest is not None
    assert newest.version == declared.version


def test_threshold_rises_with_the_size_of_the_searched_catalog(shop: Store) -> None:
    sizes = (None, 40, 1000, 100_000)

    thresholds = [
        recommend_threshold(shop, "shop", 0.01, searched=size).threshold for size in sizes
    ]

    assert thresholds[0] == thresholds[1] < thresholds[2] < thresholds[3] <= 1


def test_operating_points_fall_with_the_threshold(shop: Store) -> None:
    recommendation = recommend_threshold(shop, "shop", 0.01)

    points = recommendation.operating_points
    assert points.schema == OPERATING_POINTS
    assert points["threshold"].to_list() == list(THRESHOLDS)
    for column in ("recall", "false_best_matches", "false_positives_per_million"):
        assert points[column].is_sorted(descending=True)
    at_it = points.filter(threshold=floor_to_grid(recommendation.threshold))
    assert at_it["recall"][0] == pytest.approx(
        sum(recommendation.recall.values()) / len(PERTURBATIONS)
    )


def test_near_includes_the_recommended_threshold(shop: Store) -> None:
    recommendation = recommend_threshold(shop, "shop", 0.01)

    shown = recommendation.near((0.8, 0.8049))["threshold"].to_list()

    assert shown == sorted({0.8, floor_to_grid(recommendation.threshold)})


def test_different_encoders_are_rejected(shop: Store) -> None:
    embed_shards(shop, "other", THUMBNAIL, fill(shop, "other", {f"{n}": jpeg(n) for n in range(3)}))
    commits = [(name, latest_embeddings(shop, name)) for name in ("shop", "other")]

    with pytest.raises(StoreError, match=r"compared: shop by hog_color and other by .*thumbnail"):
        require_same_encoder(commits)
    require_same_encoder(commits[:1])


def test_recommendation_without_embeddings_raises(store: Store) -> None:
    with pytest.raises(StoreError, match="shop/embeddings has no version yet"):
        recommend_threshold(store, "shop", 0.01)


@given(threshold=st.floats(-1, 1))
def test_floor_to_grid_is_the_highest_measured_threshold_below(threshold: float) -> None:
    below = floor_to_grid(threshold)

    assert below in THRESHOLDS
    assert below <= max(threshold, 0.5)
    assert not [value for value in THRESHOLDS if below < value <= threshold]
