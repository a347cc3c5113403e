"""The threshold by the pairs that people have judged around it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.decided_threshold import (
    MIN_PAIRS,
    DecidedThreshold,
    MeasuredThreshold,
    judged_around,
    threshold_by_decisions,
)

_NAN = float("nan")
_SLOPE = 8.0


def _decide(
    similarity: np.ndarray,
    label: np.ndarray,
    measured: float,
    budget: float = 0.01,
    in_sample: np.ndarray | None = None,
) -> DecidedThreshold | None:
    drawn = np.zeros(len(label), dtype=bool) if in_sample is None else in_sample
    return threshold_by_decisions(
        similarity, label, drawn, MeasuredThreshold(measured, _SLOPE), budget
    )


def _pairs(rng: np.random.Generator, middle: float, count: int = 4000) -> tuple[np.ndarray, ...]:
    """The best pairs of left items, ascending, and whether they match; even odds at a middle."""
    similarity = np.sort(1 - 0.6 * rng.random(count) ** 0.7)
    odds = ((1 - middle) / np.maximum(1 - similarity, 1e-6)) ** _SLOPE
    return similarity, rng.random(count) < odds / (1 + odds)


def _around(similarity: np.ndarray, threshold: float, each_side: int) -> np.ndarray:
    middle = int(np.searchsorted(similarity, threshold))
    return np.arange(len(similarity)).clip(middle - each_side, middle + each_side - 1)


@given(
    judged=st.lists(st.booleans(), max_size=12),
    threshold=st.sampled_from([0.0, 0.35, 0.5, 0.95, 1.0]),
)
@settings(max_examples=200, deadline=None)
def test_run_around_a_threshold_is_the_longest_without_a_gap(
    judged: list[bool], threshold: float
) -> None:
    similarity = np.arange(len(judged)) / 10
    middle = int((similarity < threshold).sum())

    found = judged_around(similarity, np.array(judged, dtype=bool), threshold)

    assert found.start <= middle <= found.stop
    assert all(judged[found])
    assert found.start == 0 or not judged[found.start - 1]
    assert found.stop == len(judged) or not judged[found.stop]


def test_fewer_than_thirty_told_pairs_decide_nothing() -> None:
    similarity = np.linspace(0.8, 0.9, MIN_PAIRS + 1)
    label = np.ones(len(similarity))
    label[:2] = 0.5

    assert _decide(similarity, label, 0.85) is None
    label[0] = 0.0
    assert _decide(similarity, label, 0.85) is not None


def test_only_rejected_pairs_decide_nothing_while_others_are_not_judged() -> None:
    """Somebody who only says what is wrong leaves gaps, and proves nothing about the rest."""
    rng = np.random.default_rng(0)
    similarity, is_match = _pairs(rng, 0.8)

    assert _decide(similarity, np.where(is_match, _NAN, 0.0), 0.85) is None


def test_threshold_falls_where_the_pairs_below_it_match() -> None:
    similarity = np.sort(1 - 0.4 * np.random.default_rng(0).random(2000))
    label = np.full(2000, _NAN)
    window = np.unique(_around(similarity, 0.9, 30))
    label[window] = 1.0

    decided = _decide(similarity, label, 0.9)

    assert decided is not None
    assert similarity[window[0]] <= decided.value < 0.9
    assert (decided.pairs, decided.matches, decided.is_within) == (60, 60, True)


def test_threshold_rises_where_the_pairs_above_it_are_different() -> None:
    similarity = np.sort(1 - 0.4 * np.random.default_rng(0).random(2000))
    label = np.full(2000, _NAN)
    window = np.unique(_around(similarity, 0.8, 60))
    label[window] = 0.0

    decided = _decide(similarity, label, 0.8)

    assert decided is not None
    assert decided.value == pytest.approx(similarity[window[-1]], abs=1e-3)
    assert not decided.is_within


def test_labels_that_agree_with_the_measurement_leave_it() -> None:
    similarity = np.sort(1 - 0.4 * np.random.default_rng(0).random(60))
    label = np.ones(60)

    decided = _decide(similarity, label, 0.62)

    assert decided is not None
    assert decided.value <= 0.62
    assert _decide(similarity, label, 0.62) == decided


def test_one_different_pair_among_few_items_leaves_the_measurement() -> None:
    similarity = np.linspace(0.6, 0.99, 60)
    label = np.ones(60)
    label[50] = 0.0

    decided = _decide(similarity, label, 0.62)

    assert decided is not None
    assert decided.value == pytest.approx(0.62, abs=0.02)


def test_threshold_in_a_gap_between_pairs_stays() -> None:
    similarity = np.concatenate([np.linspace(0.55, 0.65, 20), np.linspace(0.95, 0.99, 40)])
    label = np.repeat([0.0, 1.0], [20, 40])

    decided = _decide(similarity, label, 0.8)

    assert decided is not None
    assert 0.64 <= decided.value <= 0.8


@pytest.mark.parametrize("start", [0.8, 0.88])
def test_decided_thresholds_keep_the_budget(start: float) -> None:
    """Whoever judges 300 pairs around a wrong threshold, and 100 at random, gets a better one."""
    kept, better = 0, 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        similarity, is_match = _pairs(rng, 0.75)
        label = np.full(len(similarity), _NAN)
        window = np.unique(_around(similarity, start, 150))
        label[window] = is_match[window]
        above = np.flatnonzero(similarity >= start)
        drawn = rng.permutation(above)[:100]
        label[drawn] = is_match[drawn]
        in_sample = np.isin(np.arange(len(similarity)), drawn)

        decided = _decide(similarity, label, start, 0.02, in_sample)

        assert decided is not None
        lowest = next(
            t
            for t in similarity
            if (~is_match[similarity >= t]).mean() * (similarity >= t).mean() <= 0.02
        )
        wrong = (~is_match & (similarity >= decided.value)).sum() / len(similarity)
        kept += wrong <= 0.02 or decided.value >= decided.highest
        better += abs(decided.value - lowest) < abs(start - lowest)
    assert kept >= 8
    assert better >= 9


def test_a_start_that_is_far_too_low_claims_a_budget_only_where_it_keeps_it() -> None:
    """Of estimates that scatter about the highest judged pair, the lowest ones claim the budget."""
    claims, exceeded = 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        similarity, is_match = _pairs(rng, 0.75)
        label = np.full(len(similarity), _NAN)
        window = np.unique(_around(similarity, 0.7, 500))
        label[window] = is_match[window]
        drawn = rng.permutation(np.flatnonzero(similarity >= 0.7))[:100]
        label[drawn] = is_match[drawn]
        in_sample = np.isin(np.arange(len(similarity)), drawn)

        decided = _decide(similarity, label, 0.7, 0.01, in_sample)

        assert decided is not None
        wrong = (~is_match & (similarity >= decided.value)).mean()
        claims += decided.is_within
        exceeded += decided.is_within and wrong > 0.013
    assert claims <= 5
    assert exceeded <= 1
