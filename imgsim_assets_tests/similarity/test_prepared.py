from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity import (
    open_prepared,
    prepare_rows,
    radius_join,
    save_prepared,
    split_rows,
    threshold_join,
    top_k,
)
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices
from imgsim_assets.similarity.join_input import JoinInput
from imgsim_assets.similarity.projection import Projection
from imgsim_assets_tests.support.join_sides import join_sides
from imgsim_assets_tests.support.vectors import families, noise

pytestmark = pytest.mark.usefixtures("projected_always")
Pairs = tuple[Indices, Indices, Doubles]
_BUDGETS = st.sampled_from([1, 5_000, 256 << 20])


def _same_bits(actual: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def _joined_in_blocks(
    left: JoinInput, right: JoinInput, counts: tuple[int, int], threshold: float, **options: Any
) -> Pairs:
    """The pairs of all blocks of one side with all of the other, in the order of a single call."""
    found = []
    for first_left, some in split_rows(left, counts[0]):
        for first_right, others in split_rows(right, counts[1]):
            i, j, similarity = threshold_join(some, others, threshold, **options)
            found.append((i + first_left, j + first_right, similarity))
    i, j, similarity = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((j, -similarity, i))
    return i[order], j[order], similarity[order]


@settings(max_examples=60, deadline=None)
@given(
    rows=join_sides(70),
    threshold=st.sampled_from([-1.0, 0.2, 0.6, 0.9, 1.0]),
    counts=st.tuples(st.integers(1, 7), st.integers(1, 4)),
    threads=st.integers(1, 3),
    budget=_BUDGETS,
)
def test_blocks_of_prepared_rows_join_to_the_bits_of_one_call(
    rows: tuple[Floats, Floats],
    threshold: float,
    counts: tuple[int, int],
    threads: int,
    budget: int,
) -> None:
    left = prepare_rows(rows[0])
    right = prepare_rows(rows[1], others=left, threshold=threshold, threads=threads)
    assert right.projected is not None

    blocks = _joined_in_blocks(
        left, right, counts, threshold, threads=threads, memory_budget=budget
    )

    _same_bits(blocks, threshold_join(*rows, threshold, threads=1))


@settings(max_examples=60, deadline=None)
@given(
    rows=join_sides(70),
    k=st.integers(1, 6),
    count=st.integers(1, 7),
    minimum=st.sampled_from([-np.inf, 0.3]),
    threads=st.integers(1, 3),
    budget=_BUDGETS,
)
def test_blocks_of_queries_find_the_bits_of_one_call(
    rows: tuple[Floats, Floats], k: int, count: int, minimum: float, threads: int, budget: int
) -> None:
    queries = prepare_rows(rows[0])
    references = prepare_rows(rows[1], others=queries, k=k)

    parts = [
        top_k(some, references, k, min_similarity=minimum, threads=threads, memory_budget=budget)
        for _, some in split_rows(queries, count)
    ]

    found = tuple(np.concatenate(each) for each in zip(*parts, strict=True))
    _same_bits(found, top_k(*rows, k, min_similarity=minimum))


def test_prepared_rows_are_neither_checked_nor_projected_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = families(300, 70, 1)
    references = prepare_rows(rows, threshold=0.8)
    assert references.projected is not None
    expected = threshold_join(rows[:100], rows, 0.8)
    applied = []
    apply = Projection.apply

    def noted(projection: Projection, part: Floats, squares: Doubles) -> Floats:
        applied.append(len(part))
        return apply(projection, part, squares)

    monkeypatch.setattr(Projection, "apply", noted)
    monkeypatch.setattr(
        "imgsim_assets.similarity.join_input.unit_rows", lambda *_: pytest.fail("rows are checked")
    )

    _same_bits(threshold_join(references.rows(0, 100), references, 0.8), expected)
    assert applied == []


def test_rows_prepared_for_a_threshold_serve_others_and_longer_rows() -> None:
    rows = families(200, 70, 2)
    references = prepare_rows(rows, threshold=0.9)
    longer = (rows[:50] * np.float32(1.0009)).astype(np.float32)

    for threshold in (0.5, 0.95):
        _same_bits(
            threshold_join(longer, references, threshold), threshold_join(longer, rows, threshold)
        )
    _same_bits(radius_join(longer, references, 0.5), radius_join(longer, rows, 0.5))
    _same_bits(top_k(longer, references, 4), top_k(longer, rows, 4))


def _join_saved(folder: Path, start: int) -> Pairs:
    references = open_prepared(folder)
    return threshold_join(references.rows(start, start + 50), references, 0.8)


def test_processes_share_saved_rows(tmp_path: Path) -> None:
    rows = families(150, 70, 3)
    rows[120] = rows[3]
    prepared = prepare_rows(rows, threshold=0.8)
    save_prepared(prepared, tmp_path / "rows")
    assert open_prepared(tmp_path / "rows").projected is not None

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        parts = pool.starmap(_join_saved, [(tmp_path / "rows", start) for start in (0, 50, 100)])

    for (i, j, similarity), start in zip(parts, (0, 50, 100), strict=True):
        one = threshold_join(rows[start : start + 50], rows, 0.8)
        _same_bits((i, j, similarity), one)
    copied = pickle.loads(pickle.dumps(prepared))
    _same_bits(threshold_join(copied, copied, 0.8), threshold_join(rows, rows, 0.8))


def test_bad_arguments_name_the_fix() -> None:
    rows = noise(3, 8, 1)
    with pytest.raises(ValueError, match="threads is 0; it must be at least 1"):
        threshold_join(rows, rows, 0.5, threads=0)
    with pytest.raises(ValueError, match="threshold or k, not both"):
        prepare_rows(rows, threshold=0.5, k=3)
    with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
        prepare_rows(rows, k=0)
    with pytest.raises(ValueError, match="threshold 2 is not a cosine"):
        prepare_rows(rows, threshold=2)
    with pytest.raises(ValueError, match="rows row 1 is of length 2"):
        prepare_rows(np.stack([rows[0], 2 * rows[1]]))
    with pytest.raises(ValueError, match="others has rows of 8 numbers, rows of 9"):
        prepare_rows(noise(3, 9, 1), others=rows, k=1)
