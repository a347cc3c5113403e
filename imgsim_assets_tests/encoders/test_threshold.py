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
DECLARED = EvaluationSettings(sample=3, false_positives_per_million=20_000)


@pytest.fixture
def shop(store: Store) -> Store:
    """A catalog of 24 images, which make 276 pairs."""
    embed_shards(
        store, "shop", HOG_COLOR, fill(store, "shop", {f"{n:02d}": jpeg(n) for n in range(24)})
    )
    return store


def test_any_budget_is_answered_from_one_report(shop: Store) -> None:
    declared = EvaluationStage(shop, "shop", DECLARED).run()

    generous = recommend_threshold(shop, "shop", 100_000)
    same = recommend_threshold(shop, "shop", 20_000)
    strict = recommend_threshold(shop, "shop", 4_000)

    assert generous.threshold < same.threshold == declared.threshold < strict.threshold
    assert same.recall == declared.recall
    assert same.false_positives_per_million == declared.false_positives_per_million
    assert all(advice.is_measured for advice in (generous, same, strict))
    newest = evaluation_table(shop, "shop").latest()
    assert newest is not None
    assert newest.version == declared.version


def test_the_advice_is_the_lowest_choice_within_the_budget(shop: Store) -> None:
    advice = recommend_threshold(shop, "shop", 20_000)

    assert advice.operating_points.schema == OPERATING_POINTS
    assert advice.operating_points["threshold"].to_list() == list(THRESHOLDS)
    for threshold, _, false, certain in advice.operating_points.iter_rows():
        assert (threshold < advice.threshold) == (certain > 20_000)
        assert certain == pytest.approx(false + 1e6 / 276)
    at_it = advice.operating_points.filter(threshold=advice.threshold)
    assert at_it["recall"][0] == pytest.approx(sum(advice.recall.values()) / len(PERTURBATIONS))


def test_a_catalog_that_is_too_small_to_tell_keeps_the_encoders_threshold(shop: Store) -> None:
    advice = recommend_threshold(shop, "shop", 1)

    assert (advice.is_measured, advice.threshold) == (False, 0.9)


def test_a_report_that_is_behind_is_brought_up_to_date_as_it_was_declared(shop: Store) -> None:
    EvaluationStage(shop, "shop", DECLARED).run()
    more = {f"{n:02d}": jpeg(n) for n in range(26)}
    embed_shards(shop, "shop", HOG_COLOR, fill(shop, "shop", more))

    advice = recommend_threshold(shop, "shop", 100)

    again = EvaluationStage(shop, "shop", DECLARED).run()
    assert (advice.images, advice.pairs) == (26, 26 * 25 // 2)
    assert not again.changed


def test_the_choices_around_some_thresholds_include_the_advised_one(shop: Store) -> None:
    advice = recommend_threshold(shop, "shop", 20_000)

    shown = advice.near((0.8, 0.8049))["threshold"].to_list()

    assert shown == sorted({0.8, advice.threshold})


def test_vectors_of_two_encoders_have_no_threshold_in_common(shop: Store) -> None:
    embed_shards(shop, "other", THUMBNAIL, fill(shop, "other", {f"{n}": jpeg(n) for n in range(3)}))
    commits = [(name, latest_embeddings(shop, name)) for name in ("shop", "other")]

    with pytest.raises(StoreError, match=r"compared: shop by hog_color and other by .*thumbnail"):
        require_same_encoder(commits)
    require_same_encoder(commits[:1])


def test_auto_resolves_to_the_strictest_evaluation_of_the_same_encoder(shop: Store) -> None:
    embeddings = latest_embeddings(shop, "shop")
    both = [("shop", embeddings), ("other", embeddings)]
    with pytest.raises(StoreError, match=r"set 'evaluation: \{\}' of shop or other"):
        resolve_threshold(shop, "auto", both)
    embed_shards(
        shop, "other", HOG_COLOR, fill(shop, "other", {f"{n:02d}": jpeg(n) for n in range(24)})
    )
    loose = EvaluationStage(shop, "shop", DECLARED).run()
    strict_settings = EvaluationSettings(sample=1, false_positives_per_million=4000)
    strict = EvaluationStage(shop, "other", strict_settings).run()

    assert strict.threshold > loose.threshold
    assert resolve_threshold(shop, "auto", both) == strict.threshold
    unknown = [("shop", embeddings), ("unknown", embeddings)]
    assert resolve_threshold(shop, "auto", unknown) == loose.threshold
    other_encoder = replace(embeddings, properties={FINGERPRINT: "another fingerprint"})
    with pytest.raises(StoreError, match="needs an evaluation"):
        resolve_threshold(shop, "auto", [("shop", other_encoder)])


def test_recommended_resolves_to_the_encoders_threshold_and_none_to_no_bound(shop: Store) -> None:
    commits = [("shop", latest_embeddings(shop, "shop"))]

    assert resolve_threshold(shop, "recommended", commits) == 0.9
    assert resolve_threshold(shop, 0.5, commits) == 0.5
    assert resolve_threshold(shop, None, commits) is None


def test_without_embeddings_there_is_no_advice(store: Store) -> None:
    with pytest.raises(StoreError, match="shop/embeddings has no version yet"):
        recommend_threshold(store, "shop", 100)


@given(threshold=st.floats(-1, 1))
def test_a_threshold_stands_for_the_measured_one_below(threshold: float) -> None:
    below = floor_to_grid(threshold)

    assert below in THRESHOLDS
    assert below <= max(threshold, 0.5)
    assert not [value for value in THRESHOLDS if below < value <= threshold]
