from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.encoders.evaluation import EvaluationStage, evaluation_table
from imgsim_assets.encoders.operating_points import OPERATING_POINTS, THRESHOLDS, floor_to_grid
from imgsim_assets.encoders.recorded import FINGERPRINT, require_same_encoder
from imgsim_assets.encoders.settings import EncoderSettings, EvaluationSettings
from imgsim_assets.encoders.stage import latest_embeddings
from imgsim_assets.encoders.threshold import recommend_threshold, resolve_threshold
from imgsim_assets.errors import StoreError
from imgsim_assets.images.perturbations import PERTURBATIONS
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, embed_shards, fill
from imgsim_assets_tests.support.images import jpeg

HOG_COLOR = EncoderSettings(name="hog_color")
DECLARED = EvaluationSettings(sample_size=3, false_positives_per_million=20_000)


@pytest.fixture
def shop(store: Store) -> Store:
    """A catalog of 24 images, which make 276 pairs."""
    embed_shards(
        store, "shop", HOG_COLOR, fill(store, "shop", {f"{n:02d}": jpeg(n) for n in range(24)})
    )
    return store


def test_any_budget_uses_one_evaluation(shop: Store) -> None:
    declared = EvaluationStage(shop, "shop", DECLARED).run()

    generous = recommend_threshold(shop, "shop", 100_000)
    same = recommend_threshold(shop, "shop", 20_000)
    strict = recommend_threshold(shop, "shop", 4_000)

    assert generous.threshold < same.threshold == declared.threshold < strict.threshold
    assert same.recall == declared.recall
    assert same.false_positives_per_million == declared.false_positives_per_million
    assert all(recommendation.is_measured for recommendation in (generous, same, strict))
    newest = evaluation_table(shop, "shop").latest()
    assert newest is not None
    assert newest.version == declared.version


def test_recommendation_is_the_lowest_point_within_budget(shop: Store) -> None:
    recommendation = recommend_threshold(shop, "shop", 20_000)

    assert recommendation.operating_points.schema == OPERATING_POINTS
    assert recommendation.operating_points["threshold"].to_list() == list(THRESHOLDS)
    for threshold, _, false, certain in recommendation.operating_points.iter_rows():
        assert (threshold < recommendation.threshold) == (certain > 20_000)
        assert certain == pytest.approx(false + 1e6 / 276)
    at_it = recommendation.operating_points.filter(threshold=recommendation.threshold)
    assert at_it["recall"][0] == pytest.approx(
        sum(recommendation.recall.values()) / len(PERTURBATIONS)
    )


def test_small_catalog_uses_threshold_of_encoder(shop: Store) -> None:
    recommendation = recommend_threshold(shop, "shop", 1)

    assert (recommendation.is_measured, recommendation.threshold) == (False, 0.9)


def test_stale_evaluation_is_updated_with_recorded_settings(shop: Store) -> None:
    EvaluationStage(shop, "shop", DECLARED).run()
    more = {f"{n:02d}": jpeg(n) for n in range(26)}
    embed_shards(shop, "shop", HOG_COLOR, fill(shop, "shop", more))

    recommendation = recommend_threshold(shop, "shop", 100)

    again = EvaluationStage(shop, "shop", DECLARED).run()
    assert (recommendation.images, recommendation.pairs) == (26, 26 * 25 // 2)
    assert not again.changed


def test_near_includes_the_recommended_threshold(shop: Store) -> None:
    recommendation = recommend_threshold(shop, "shop", 20_000)

    shown = recommendation.near((0.8, 0.8049))["threshold"].to_list()

    assert shown == sorted({0.8, recommendation.threshold})


def test_different_encoders_are_rejected(shop: Store) -> None:
    embed_shards(shop, "other", THUMBNAIL, fill(shop, "other", {f"{n}": jpeg(n) for n in range(3)}))
    commits = [(name, latest_embeddings(shop, name)) for name in ("shop", "other")]

    with pytest.raises(StoreError, match=r"compared: shop by hog_color and other by .*thumbnail"):
        require_same_encoder(commits)
    require_same_encoder(commits[:1])


def test_auto_is_the_strictest_evaluation_of_the_encoder(shop: Store) -> None:
    embeddings = latest_embeddings(shop, "shop")
    both = [("shop", embeddings), ("other", embeddings)]
    with pytest.raises(StoreError, match=r"set 'evaluation: \{\}' of shop or other"):
        resolve_threshold(shop, "auto", both)
    embed_shards(
        shop, "other", HOG_COLOR, fill(shop, "other", {f"{n:02d}": jpeg(n) for n in range(24)})
    )
    loose = EvaluationStage(shop, "shop", DECLARED).run()
    strict_settings = EvaluationSettings(sample_size=1, false_positives_per_million=4000)
    strict = EvaluationStage(shop, "other", strict_settings).run()

    assert strict.threshold > loose.threshold
    assert resolve_threshold(shop, "auto", both) == strict.threshold
    unknown = [("shop", embeddings), ("unknown", embeddings)]
    assert resolve_threshold(shop, "auto", unknown) == loose.threshold
    other_encoder = replace(embeddings, properties={FINGERPRINT: "another fingerprint"})
    with pytest.raises(StoreError, match="needs an evaluation"):
        resolve_threshold(shop, "auto", [("shop", other_encoder)])


def test_recommended_is_the_threshold_of_the_encoder_and_none_no_bound(shop: Store) -> None:
    commits = [("shop", latest_embeddings(shop, "shop"))]

    assert resolve_threshold(shop, "recommended", commits) == 0.9
    assert resolve_threshold(shop, 0.5, commits) == 0.5
    assert resolve_threshold(shop, None, commits) is None


def test_recommendation_without_embeddings_raises(store: Store) -> None:
    with pytest.raises(StoreError, match="shop/embeddings has no version yet"):
        recommend_threshold(store, "shop", 100)


@given(threshold=st.floats(-1, 1))
def test_floor_to_grid_is_the_highest_measured_threshold_below(threshold: float) -> None:
    below = floor_to_grid(threshold)

    assert below in THRESHOLDS
    assert below <= max(threshold, 0.5)
    assert not [value for value in THRESHOLDS if below < value <= threshold]
