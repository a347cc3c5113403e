from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imgsim_assets.similarity import join_input, prefilter, threshold_join, top_k
from imgsim_assets.similarity import references as references_module
from imgsim_assets.similarity import shared_prefilter as shared_module
from imgsim_assets.similarity.block_join import Lists, join
from imgsim_assets.similarity.cosine import Doubles, Floats, UnitRows, unit_rows
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.projection import Projection, fit
from imgsim_assets.similarity.references import References
from imgsim_assets.similarity.vector_blocks import VectorBlocks
from imgsim_assets_tests.support.blocks import small_blocks
from imgsim_assets_tests.support.join_sides import join_sides
from imgsim_assets_tests.support.vectors import families

pytestmark = pytest.mark.usefixtures("projected_always")
_DIM = 70


def _side(rows: Floats) -> JoinSide:
    """Rows of one item each."""
    return JoinSide(VectorBlocks.of(rows), np.arange(len(rows)), None, 1)


def _pairs(
    left: Floats, right: Floats, k: int | None, threshold: float
) -> tuple[NDArray[Any], ...]:
    """The pairs of one call for all rows."""
    if k is None:
        return threshold_join(left, right, threshold)
    index, cosines = top_k(left, right, k, min_similarity=threshold)
    i, rank = np.nonzero(index >= 0)
    return i, index[i, rank], cosines[i, rank]


@settings(max_examples=60, deadline=None)
@given(
    rows=join_sides(_DIM),
    calls=st.integers(1, 3),
    block=st.integers(1, 50),
    k=st.sampled_from([None, 1, 3]),
    threshold=st.sampled_from([-1.0, 0.2, 0.9]),
    max_work=st.sampled_from([1, 20_000, 10**12]),
    kept=st.sampled_from([0, 1 << 20]),
)
def test_joins_that_share_references_give_the_bits_of_one_call(
    rows: tuple[Floats, Floats],
    calls: int,
    block: int,
    k: int | None,
    threshold: float,
    max_work: int,
    kept: int,
) -> None:
    left, right = rows
    references, spec = References(_side(right)), JoinSpec(threshold, k)
    found: list[Lists] = []
    numbers = np.array_split(np.arange(len(left)), calls)
    with small_blocks(block), pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_module, "_MAX_WORK", max_work)
        patch.setattr(references_module, "_MAX_KEPT_BYTES", kept)
        for some in numbers:
            minimum = np.full(len(some), threshold)
            found.append(join(_side(left).take(some), references, spec, minimum))

    depth = spec.depth(1)
    for some, lists in zip(numbers, found, strict=True):
        expected = _pairs(left[some], right, depth, threshold)
        for mine, theirs in zip(lists[:3], expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_block_is_checked_once_and_its_prefilter_serves_all_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, right = families(40, _DIM, 1), families(40, _DIM, 2)
    checked, fitted = [], []

    def noted_check(rows: Floats, name: str) -> UnitRows:
        checked.append(len(rows))
        return unit_rows(rows, name)

    def noted_fit(sample: Floats, width: int, length: float) -> Projection:
        fitted.append(len(sample))
        return fit(sample, width, length)

    monkeypatch.setattr(join_input, "unit_rows", noted_check)
    monkeypatch.setattr(prefilter, "fit", noted_fit)
    references = References(_side(right))
    with small_blocks(10):
        for _ in range(2):
            join(_side(left), references, JoinSpec(0.5), np.full(40, 0.5))

    # The left rows of both joins in batches of 10, and each of the four blocks once.
    assert sum(checked) == 40 + 40 + 40
    assert len(fitted) == 1


def test_small_joins_of_one_large_one_are_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = families(10, _DIM, 1), families(40, _DIM, 2)
    projected = []
    apply = Projection.apply

    def noted(projection: Projection, rows: Floats, squares: Doubles) -> Floats:
        projected.append(len(rows))
        return apply(projection, rows, squares)

    monkeypatch.setattr(Projection, "apply", noted)
    monkeypatch.setattr(prefilter, "_MIN_PROJECTED_WORK", 10 * 40 * _DIM)
    with small_blocks(10):
        join(_side(left), _side(right), JoinSpec(0.5), np.full(10, 0.5))

    assert projected


def test_pickled_references_find_the_same() -> None:
    left, right = families(30, _DIM, 3), families(30, _DIM, 4)
    references, minimum = References(_side(right)), np.full(30, -1.0)
    with small_blocks(7):
        first = join(_side(left), references, JoinSpec(k=2), minimum)
        again = join(_side(left), pickle.loads(pickle.dumps(references)), JoinSpec(k=2), minimum)

    for mine, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(mine, theirs)
