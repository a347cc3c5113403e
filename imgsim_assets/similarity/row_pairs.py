"""Pairs of rows: of all rows, or of those that agree in a value, such as a brand.

A value makes a block of left and right rows. Large blocks are joined one by one; of small ones all
pairs are scored, many blocks at once. Both are exact.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from imgsim_assets.compute.memory import join_budget
from imgsim_assets.similarity.cosine import Doubles, Indices, UnitRows, pair_cosines
from imgsim_assets.similarity.join import pairs_above
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.knn import nearest
from imgsim_assets.similarity.shared_prefilter import SharedPrefilter
from imgsim_assets.similarity.unique_rows import find_unique_rows

# Pairs of row numbers with their cosines.
Pairs = tuple[Indices, Indices, Doubles]
# A block with more pairs is joined on its own; the others are scored many blocks at once.
_MAX_SMALL_BLOCK = 1 << 14
_MAX_SCORED = 1 << 20


def row_pairs(
    inputs: InputPair,
    k: int | None,
    min_similarity: Doubles,
    shared: SharedPrefilter | None = None,
) -> Pairs:
    """The pairs at or above the minimum (n,) of each left row.

    Args:
        inputs: the rows.
        k: the greatest number of pairs of a left row, the best first; None for all.
        min_similarity: (n,); without k it is the same for all rows.
        shared: the prefilter of several joins; default: one is chosen for this one.

    Returns:
        Pairs by left row, falling cosine and right row.
    """
    if k is None:
        threshold = float(min_similarity[0])
        return pairs_above(inputs, threshold, memory_budget=join_budget(), shared=shared)
    index, cosines = nearest(inputs, k, min_similarity, memory_budget=join_budget(), shared=shared)
    i, ranks = np.nonzero(index >= 0)
    return i, index[i, ranks], cosines[i, ranks]


def pairs_within(
    left: JoinInput,
    right: JoinInput,
    left_rows: pl.DataFrame,
    right_rows: pl.DataFrame,
    k: int | None,
    min_similarity: Doubles,
) -> Pairs:
    """`row_pairs` of those rows that have the same value.

    Args:
        left: all left rows.
        right: all right rows.
        left_rows: the numbers of the left rows that are compared, and their values: row, value.
        right_rows: those of the right rows.
        k: as of `row_pairs`.
        min_similarity: as of `row_pairs`, for all left rows.
    """
    parts: list[Pairs] = []
    small: list[tuple[Indices, Indices]] = []
    waiting = 0
    for i, j in _blocks(left_rows, right_rows):
        if len(i) * len(j) > _MAX_SMALL_BLOCK:
            parts.append(_joined(left, right, i, j, k, min_similarity))
            continue
        small.append((np.repeat(i, len(j)), np.tile(j, len(i))))
        waiting += len(i) * len(j)
        if waiting > _MAX_SCORED:
            parts.append(_scored(left, right, small, k, min_similarity))
            small, waiting = [], 0
    if small:
        parts.append(_scored(left, right, small, k, min_similarity))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    i, j, cosines = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    # Each left row is in one block, and its pairs are in order.
    order = np.argsort(i, kind="stable")
    return i[order], j[order], cosines[order]


def _blocks(left: pl.DataFrame, right: pl.DataFrame) -> Iterator[tuple[Indices, Indices]]:
    """The left and right rows of each value that both sides have, ascending."""
    sides = [side.group_by("value").agg("row") for side in (left, right)]
    both = sides[0].join(sides[1], on="value").sort("value")
    for i, j in zip(both["row"], both["row_right"], strict=True):
        yield i.to_numpy(), j.to_numpy()


def _joined(
    left: JoinInput, right: JoinInput, i: Indices, j: Indices, k: int | None, minimum: Doubles
) -> Pairs:
    inputs = InputPair.of(_part(left, i), _part(right, j))
    rows, columns, cosines = row_pairs(inputs, k, minimum[i])
    return i[rows], j[columns], cosines


def _part(rows: JoinInput, numbers: Indices) -> JoinInput:
    """Some of the rows as an input of their own."""
    unit = rows.unit
    part = UnitRows(unit.rows[numbers], unit.squares[numbers], unit.deviation)
    return JoinInput(part, find_unique_rows(part.rows))


def _scored(
    left: JoinInput,
    right: JoinInput,
    blocks: list[tuple[Indices, Indices]],
    k: int | None,
    minimum: Doubles,
) -> Pairs:
    i, j = (np.concatenate(arrays) for arrays in zip(*blocks, strict=True))
    squares = left.unit.squares, right.unit.squares
    cosines = pair_cosines(left.unit.rows, right.unit.rows, i, j, squares=squares)
    reached = cosines >= minimum[i]
    i, j, cosines = i[reached], j[reached], cosines[reached]
    order = np.lexsort((j, -cosines, i))
    i, j, cosines = i[order], j[order], cosines[order]
    if k is None:
        return i, j, cosines
    within = np.arange(len(i)) - np.searchsorted(i, i) < k
    return i[within], j[within], cosines[within]
