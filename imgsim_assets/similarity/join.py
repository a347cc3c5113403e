"""Exact joins of unit vectors: all pairs above a threshold, and the k nearest.

Both work through tiles of a float32 matrix product that only has to find candidates: what
it may miss by rounding is bounded (`product_error`), so the bar is lowered by that much and
every candidate is scored again in float64. The result is that of the float64 definition,
whatever the tiles, threads or memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import (
    Doubles,
    Floats,
    Indices,
    pair_cosines,
    product_error,
    unit_rows,
)

MEMORY_BUDGET = 256 << 20
_ROWS = 1024
_COLUMNS = 4096


def threshold_join(
    left: NDArray[np.floating],
    right: NDArray[np.floating],
    threshold: float,
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> tuple[Indices, Indices, Doubles]:
    """All pairs of rows whose cosine is at least the threshold.

    Args:
        left: (n, d) float32 unit rows.
        right: (m, d) float32 unit rows.
        threshold: cosine in [-1, 1], inclusive.
        memory_budget: bytes for working memory, beside the inputs and what the pairs take
            while they are put in order (about three times the result).

    Returns:
        Row numbers of left and right (int64) and cosines (float64) of the pairs, sorted by
        left row, then falling cosine, then right row.

    Raises:
        ValueError: for a threshold outside [-1, 1], arrays of different width, or a row that
            is not a finite unit vector; the message names the row.
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} is no cosine; it must lie in [-1, 1]")
    a, b, error = _checked(left, right, "left", "right")
    bar = np.float32(threshold - error)
    found_left = [np.empty(0, np.int64)]
    found_right = [np.empty(0, np.int64)]
    found = [np.empty(0)]
    for rows, columns, scores in _tiles(a, b, memory_budget):
        hits = np.flatnonzero(scores >= bar)
        if not len(hits):
            continue
        i = hits // scores.shape[1] + rows
        j = hits % scores.shape[1] + columns
        cosines = pair_cosines(a, b, i, j)
        kept = cosines >= threshold
        found_left.append(i[kept])
        found_right.append(j[kept])
        found.append(cosines[kept])
    left_index = np.concatenate(found_left)
    right_index = np.concatenate(found_right)
    similarity = np.concatenate(found)
    order = np.lexsort((right_index, -similarity, left_index))
    return left_index[order], right_index[order], similarity[order]


def top_k(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    k: int,
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> tuple[Indices, Doubles]:
    """The k references of greatest cosine for every query.

    Args:
        queries: (n, d) float32 unit rows.
        references: (m, d) float32 unit rows.
        k: how many, at least 1.
        memory_budget: bytes for working memory beside the inputs and the result.

    Returns:
        Row numbers of the references (n, k) int64 and cosines (n, k) float64, the greatest
        first and ties by lower row number; -1 and NaN where there are fewer than k.

    Raises:
        ValueError: for k below 1, arrays of different width, or a row that is not a finite
            unit vector; the message names the row.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    a, b, error = _checked(queries, references, "queries", "references")
    index = np.full((len(a), k), -1, dtype=np.int64)
    similarity = np.full((len(a), k), np.nan)
    step, columns = _tile_shape(len(b), memory_budget)
    for start in range(0, len(a), step):
        block = a[start : start + step]
        i, j = _candidates(block, b, k, columns, error)
        _fill(index[start : start + step], similarity[start : start + step], i, j, block, b)
    return index, similarity


def _checked(
    left: NDArray[np.floating], right: NDArray[np.floating], left_name: str, right_name: str
) -> tuple[Floats, Floats, float]:
    """Both sides as float32 unit rows, and how far their float32 products may be off."""
    a, left_deviation = unit_rows(left, left_name)
    b, right_deviation = unit_rows(right, right_name)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{left_name} has rows of {a.shape[1]} numbers, {right_name} of {b.shape[1]}; "
            "they must come from the same encoder"
        )
    return a, b, product_error(a.shape[1], max(left_deviation, right_deviation))


def _tile_shape(columns: int, memory_budget: int) -> tuple[int, int]:
    """Rows and columns of a tile: a float32 score and a bool each, beside the candidates."""
    width = max(1, min(_COLUMNS, columns))
    room = max(1, memory_budget // 4)
    height = max(1, min(_ROWS, room // (5 * width)))
    return height, width


def _tiles(a: Floats, b: Floats, memory_budget: int) -> Iterator[tuple[int, int, Floats]]:
    """First row, first column and scores (r, c) of every tile of a @ b.T.

    The scores are overwritten by the next tile.
    """
    height, width = _tile_shape(len(b), memory_budget)
    buffer = np.empty(height * width, dtype=np.float32)
    for column in range(0, len(b), width):
        right = b[column : column + width]
        for row in range(0, len(a), height):
            left = a[row : row + height]
            scores = buffer[: len(left) * len(right)].reshape(len(left), len(right))
            np.matmul(left, right.T, out=scores)
            yield row, column, scores


def _candidates(
    block: Floats, b: Floats, k: int, width: int, error: float
) -> tuple[Indices, Indices]:
    """Pairs (row of block, row of b) that hold every true neighbour of the block's rows.

    A reference whose product is below the k-th best one seen by more than twice the error
    cannot be among the k of greatest cosine.
    """
    slack = np.float32(2 * error)
    rows = np.empty(0, np.int64)
    columns = np.empty(0, np.int64)
    scores = np.empty(0, np.float32)
    best = np.full((len(block), k), -np.inf, dtype=np.float32)
    for column in range(0, len(b), width):
        tile = block @ b[column : column + width].T
        best = _k_largest(np.concatenate([best, tile], axis=1), k)
        bar = best.min(axis=1) - slack
        hits = np.flatnonzero(tile >= bar[:, None])
        rows = np.concatenate([rows, hits // tile.shape[1]])
        columns = np.concatenate([columns, hits % tile.shape[1] + column])
        scores = np.concatenate([scores, tile.ravel()[hits]])
        still = scores >= bar[rows]
        rows, columns, scores = rows[still], columns[still], scores[still]
    return rows, columns


def _k_largest(scores: Floats, k: int) -> Floats:
    if scores.shape[1] <= k:
        return scores
    largest: Floats = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k:]
    return largest


def _fill(
    index: Indices, similarity: Doubles, i: Indices, j: Indices, block: Floats, b: Floats
) -> None:
    """Score candidate pairs exactly and write each row's best into index and similarity."""
    cosines = pair_cosines(block, b, i, j)
    order = np.lexsort((j, -cosines, i))
    i, j, cosines = i[order], j[order], cosines[order]
    first = np.searchsorted(i, np.arange(len(block)))
    rank = np.arange(len(i)) - first[i]
    kept = rank < index.shape[1]
    index[i[kept], rank[kept]] = j[kept]
    similarity[i[kept], rank[kept]] = cosines[kept]
