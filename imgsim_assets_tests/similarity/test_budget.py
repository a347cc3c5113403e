"""Thresholds within a budget of false matches, on vectors whose distribution is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.budget import expected_rate, thresholds_within
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.nearest_others import nearest_others
from imgsim_assets.similarity.other_items import NearestOthers


def _catalog(count: int, seed: int, dim: int = 8) -> Items:
    """Images at random in few dimensions, so that some are near others."""
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    ids = [f"{row:06d}" for row in range(count)]
    return Items(pl.DataFrame({"id": ids, "sha256": ids}), vectors)


def _false_rate(items: Items, threshold: float) -> float:
    return float(np.mean(nearest_others(items).best >= threshold))


@pytest.mark.parametrize("count", [60, 200])
def test_other_catalogs_of_the_size_stay_within_the_budget(count: int) -> None:
    exceeded = 0
    for seed in range(40):
        (found,) = thresholds_within(nearest_others(_catalog(count, seed)), 0.05, [count])
        exceeded += _false_rate(_catalog(count, 1000 + seed), found.value) > 0.05

    assert exceeded <= 3


def test_threshold_of_a_sample_holds_in_a_larger_catalog() -> None:
    exceeded = 0
    for seed in range(10):
        (found,) = thresholds_within(nearest_others(_catalog(150, seed)), 0.05, [1500])
        exceeded += _false_rate(_catalog(1500, 500 + seed), found.value) > 0.05

    assert exceeded <= 1


def test_threshold_is_not_needlessly_strict() -> None:
    (found,) = thresholds_within(nearest_others(_catalog(400, 1)), 0.05, [400])

    rates = [_false_rate(_catalog(400, 100 + seed), found.value) for seed in range(10)]

    assert np.mean(rates) > 0.005


@given(count=st.integers(2, 40), seed=st.integers(0, 99), budget=st.floats(0.001, 0.6))
@settings(max_examples=25, deadline=None)
def test_threshold_rises_with_size_and_falls_with_budget(
    count: int, seed: int, budget: float
) -> None:
    others = nearest_others(_catalog(count, seed))
    sizes = [1, count, 2 * count, 1000, 10**6]

    found = thresholds_within(others, budget, sizes)
    generous = thresholds_within(others, min(0.99, 1.5 * budget), sizes)

    values = [each.value for each in found]
    assert values == sorted(values)
    assert values[0] == values[1]
    assert all(each.low <= each.value <= each.high <= 1 for each in found)
    assert all(a.value >= b.value for a, b in zip(found, generous, strict=True))
    assert found == thresholds_within(others, budget, sizes)


def test_without_two_different_items_only_equal_images_match() -> None:
    none = NearestOthers(np.empty(0, np.int64))
    one = nearest_others(_catalog(1, 0))

    for others in (none, one):
        (found,) = thresholds_within(others, 0.01, [10])
        assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_expected_rate_approaches_the_budget_of_large_catalogs() -> None:
    rates = [expected_rate(0.01, count) for count in (10, 500, 5000, 500_000)]

    assert all(0 < rate <= 0.01 for rate in rates)
    assert rates[1] < rates[2] < rates[3]
    assert rates[3] == pytest.approx(0.01, rel=0.05)
