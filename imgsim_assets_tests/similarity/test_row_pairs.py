from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity import row_pairs
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets_tests.support.torch_joins import DEVICES, torch_joins
from imgsim_assets_tests.support.vectors import cosines, families


@pytest.mark.parametrize("max_small_block", [0, 12, 1 << 14])
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 100),
    counts=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    k=st.sampled_from([None, 1, 3]),
    values=st.integers(1, 6),
)
def test_pairs_within_equal_the_definition(
    max_small_block: int, seed: int, counts: tuple[int, int], k: int | None, values: int
) -> None:
    left, right = (families(count, 16, seed + side) for side, count in enumerate(counts))
    rng = np.random.default_rng(seed)
    left_value, right_value = (rng.integers(0, values, count) for count in counts)
    minimum = np.full(len(left), 0.1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_pairs, "_MAX_SMALL_BLOCK", max_small_block)
        patch.setattr(row_pairs, "_MAX_SCORED", 20)
        i, j, similarity = row_pairs.pairs_within(
            JoinInput.of(left, "left"),
            JoinInput.of(right, "right"),
            _valued(left_value),
            _valued(right_value),
            k,
            minimum,
        )

    table = cosines(left, right)
    expected = [
        (row, column)
        for row in range(len(left))
        for column in sorted(
            (c for c in range(len(right)) if right_value[c] == left_value[row]),
            key=lambda c: (-table[row, c], c),
        )[:k]
        if table[row, column] >= 0.1
    ]
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == expected
    np.testing.assert_allclose(similarity, [table[pair] for pair in expected], atol=1e-15)


def _valued(values: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({"row": np.arange(len(values)), "value": [str(v) for v in values]})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [None, 3])
def test_row_pairs_of_torch_equal_those_of_numpy(device: str, k: int | None) -> None:
    left, right = (JoinInput.of(families(count, 32, 4), "rows") for count in (300, 450))
    inputs, minimum = InputPair.of(left, right), np.full(300, 0.7)
    expected = row_pairs.row_pairs(inputs, k, minimum)

    with torch_joins(device):
        found = row_pairs.row_pairs(inputs, k, minimum)

    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()
    assert len(found[0]) > 300
