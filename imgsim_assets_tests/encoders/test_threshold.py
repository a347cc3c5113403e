from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.encoders.evaluation import (
    CHOICES,
    THRESHOLDS,
    evaluation_table,
    measured_below,
    update_evaluation,
)
from imgsim_assets.encoders.evaluation_settings import EvaluationSettings
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.stage import embed
from imgsim_assets.encoders.threshold import advise, require_same_encoders
from imgsim_assets.errors import StoreError
from imgsim_assets.images.edits import EDITS
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, fill
from imgsim_assets_tests.support.images import jpeg

HOG_COLOR = EncoderSettings(name="hog_color")
DECLARED = EvaluationSettings(sample=3, false_positives_per_million=20_000)


@pytest.fixture
def shop(store: Store) -> Store:
    """A catalog of 24 images, which make 276 pairs."""
    embed(store, "shop", HOG_COLOR, fill(store, "shop", {f"{n:02d}": jpeg(n) for n in range(24)}))
    return store


def test_any_budget_is_answered_from_one_report(shop: Store) -> None:
    declared = update_evaluation(shop, "shop", DECLARED)

    generous = advise(shop, "shop", 100_000)
    same = advise(shop, "shop", 20_000)
    strict = advise(shop, "shop", 4_000)

    assert generous.threshold < same.threshold == declared.threshold < strict.threshold
    assert same.recall == declared.recall
    assert same.false_positives_per_million == declared.false_positives_per_million
    assert all(advice.is_measured for advice in (generous, same, strict))
    newest = evaluation_table(shop, "shop").latest()
    assert newest is not None
    assert newest.version == declared.version


def test_the_advice_is_the_lowest_choice_within_the_budget(shop: Store) -> None:
    advice = advise(shop, "shop", 20_000)

    assert advice.choices.schema == CHOICES
    assert advice.choices["threshold"].to_list() == list(THRESHOLDS)
    for threshold, _, false, certain in advice.choices.iter_rows():
        assert (threshold < advice.threshold) == (certain > 20_000)
        assert certain == pytest.approx(false + 1e6 / 276)
    at_it = advice.choices.filter(threshold=advice.threshold)
    assert at_it["recall"][0] == pytest.approx(sum(advice.recall.values()) / len(EDITS))


def test_a_catalog_that_is_too_small_to_tell_keeps_the_encoders_threshold(shop: Store) -> None:
    advice = advise(shop, "shop", 1)

    assert (advice.is_measured, advice.threshold) == (False, 0.9)


def test_a_report_that_is_behind_is_brought_up_to_date_as_it_was_declared(shop: Store) -> None:
    update_evaluation(shop, "shop", DECLARED)
    more = {f"{n:02d}": jpeg(n) for n in range(26)}
    embed(shop, "shop", HOG_COLOR, fill(shop, "shop", more))

    advice = advise(shop, "shop", 100)

    again = update_evaluation(shop, "shop", DECLARED)
    assert (advice.images, advice.pairs) == (26, 26 * 25 // 2)
    assert not again.changed


def test_the_choices_around_some_thresholds_include_the_advised_one(shop: Store) -> None:
    advice = advise(shop, "shop", 20_000)

    shown = advice.around((0.8, 0.8049))["threshold"].to_list()

    assert shown == sorted({0.8, advice.threshold})


def test_vectors_of_two_encoders_have_no_threshold_in_common(shop: Store) -> None:
    embed(shop, "other", THUMBNAIL, fill(shop, "other", {f"{n}": jpeg(n) for n in range(3)}))
    advices = [advise(shop, name, 100) for name in ("shop", "other")]

    with pytest.raises(StoreError, match=r"compared: shop by hog_color and other by .*thumbnail"):
        require_same_encoders(advices)
    require_same_encoders(advices[:1])


def test_without_embeddings_there_is_no_advice(store: Store) -> None:
    with pytest.raises(StoreError, match="shop/embeddings has no version yet"):
        advise(store, "shop", 100)


@given(threshold=st.floats(-1, 1))
def test_a_threshold_stands_for_the_measured_one_below(threshold: float) -> None:
    below = measured_below(threshold)

    assert below in THRESHOLDS
    assert below <= max(threshold, 0.5)
    assert not [value for value in THRESHOLDS if below < value <= threshold]
