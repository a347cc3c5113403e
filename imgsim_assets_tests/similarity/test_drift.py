from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.similarity.drift import drift

_scores = st.lists(st.sampled_from([0.8, 0.85, 0.9, 0.95, 1.0]), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [], 0.0),
        ([0.9], [], 1.0),
        ([], [0.9], 1.0),
        ([0.8, 0.9], [0.8, 0.9], 0.0),
        ([0.8, 0.9], [0.95, 1.0], 1.0),
        ([0.8, 0.9, 0.9, 0.9], [0.8, 0.8, 0.9, 0.9], 0.25),
    ],
)
def test_known_distances(before: list[float], after: list[float], expected: float) -> None:
    series = (pl.Series(values, dtype=pl.Float64) for values in (before, after))
    assert drift(*series) == expected


@given(_scores, _scores)
def test_it_is_the_largest_difference_of_the_cumulative_shares(
    before: list[float], after: list[float]
) -> None:
    def share(values: list[float], bar: float) -> float:
        return sum(value <= bar for value in values) / len(values)

    expected = max(abs(share(before, bar) - share(after, bar)) for bar in {*before, *after})
    found = drift(pl.Series(before), pl.Series(after))

    assert found == pytest.approx(expected)
    assert drift(pl.Series(after), pl.Series(before)) == found
    assert drift(pl.Series(before * 3), pl.Series(after)) == pytest.approx(found)
