"""Exact joins of unit vectors: all pairs above a threshold, and the k nearest.

Both work through tiles of a screen (`screen.py`), a product that only has to find candidates:
what it may be off by is bounded, so the bar is lowered by that much. Candidates are looked at
again, by a float32 product of the whole rows and then in float64. The result is that of the
float64 definition, whatever the screen, tiles, threads or memory. Rows that are copies of
another (`copies.py`) are worked on once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.copies import Distinct, distinct, expanded
from imgsim_assets.similarity.cosine import (
    Doubles,
    Floats,
    Indices,
    UnitRows,
    pair_cosines,
    product_error,
    unit_rows,
)
from imgsim_assets.similarity.screen import Screen, for_threshold

MEMORY_BUDGET = 256 << 20
_ROWS = 1024
_COLUMNS = 4096
# Bytes of a score in a tile, with its place in a mask.
_SCORE = 5
# Bytes of a candidate while it is looked at: place, row numbers, scores.
_CANDIDATE = 80
# So many candidates for each place in the lists of k are worth finding a better bar first.
_MANY = 2


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
    pair = Pair.of(unit_rows(left, "left"), unit_rows(right, "right"), "left", "right")
    screen = for_threshold(pair.left.unit, pair.right.unit, threshold)
    bar = np.float32(threshold - screen.error)
    found_left = [np.empty(0, np.int64)]
    found_right = [np.empty(0, np.int64)]
    found = [np.empty(0)]
    for tile in tiles(pair, screen, memory_budget):
        for i, j in tile.hits(bar, _most_candidates(memory_budget)):
            i, j = pair.still(screen, i, j, np.float32(threshold - pair.error))
            cosines = pair.cosines(i, j)
            kept = cosines >= threshold
            found_left.append(i[kept])
            found_right.append(j[kept])
            found.append(cosines[kept])
    pairs = (np.concatenate(found_left), np.concatenate(found_right), np.concatenate(found))
    i, j, similarity = expanded(*pairs, pair.left.copies, pair.right.copies)
    order = np.lexsort((j, -similarity, i))
    return i[order], j[order], similarity[order]


def top_k(
    queries: NDArray[np.floating],
    references: NDArray[np.floating],
    k: int,
    *,
    at_least: Doubles | float = -np.inf,
    memory_budget: int = MEMORY_BUDGET,
) -> tuple[Indices, Doubles]:
    """The k references of greatest cosine for every query.

    Args:
        queries: (n, d) float32 unit rows.
        references: (m, d) float32 unit rows.
        k: how many, at least 1.
        at_least: cosine, inclusive, below which references do not count: one for all queries,
            or (n,) one for each. The higher, the faster.
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
    a, b = unit_rows(queries, "queries"), unit_rows(references, "references")
    pair = Pair.of(a, b, "queries", "references")
    screen = Screen.of(None, a, b)
    least_of_all = np.broadcast_to(np.asarray(at_least, dtype=np.float64), len(a.rows))
    nearest = _Nearest.none(k, pair.left.copies.least(least_of_all))
    for tile in tiles(pair, screen, memory_budget):
        rows = slice(tile.row, tile.row + len(tile.scores))
        bars = nearest.bars[rows]
        least = _rounded_down(bars - screen.error)
        # While lists fill, a tile's own k best say more than a low bar does.
        if np.count_nonzero(tile.scores >= least[:, None]) > _MANY * k * len(tile.scores):
            bars = np.maximum(bars, _k_th(tile.scores, k) - screen.error)
            least = _rounded_down(bars - screen.error)
        for i, j in tile.hits(least[:, None], _most_candidates(memory_budget)):
            nearest.offer(i, j, pair.cosines(i, j))
    index, similarity = nearest.of_all(pair.left.copies, pair.right.copies)
    # Copies of a query may ask for more than it does.
    beyond = (index < 0) | (similarity < least_of_all[:, None])
    index[beyond], similarity[beyond] = -1, np.nan
    return index, similarity


# ---- what is compared -------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """Rows, of which only the first of every set of copies is looked at."""

    unit: UnitRows
    copies: Distinct

    def __len__(self) -> int:
        return len(self.copies.first)

    def places(self, index: Indices) -> Indices:
        """Row numbers of distinct rows."""
        return self.copies.first[index] if self.copies.has_copies else index

    def block(self, start: int, stop: int) -> tuple[Floats, Doubles]:
        """Some distinct rows and their squared lengths."""
        chosen = self.copies.first[start:stop] if self.copies.has_copies else slice(start, stop)
        return self.unit.rows[chosen], self.unit.squares[chosen]


@dataclass(frozen=True)
class Pair:
    """Both sides of a join; `error` is how far their float32 products may be off."""

    left: Side
    right: Side
    error: float

    @classmethod
    def of(cls, left: UnitRows, right: UnitRows, left_name: str, right_name: str) -> Pair:
        """Both sides, the copies found; ValueError when their widths differ."""
        dim = left.rows.shape[1]
        if dim != right.rows.shape[1]:
            raise ValueError(
                f"{left_name} has rows of {dim} numbers, {right_name} of {right.rows.shape[1]}; "
                "they must come from the same encoder"
            )
        error = product_error(dim, max(left.deviation, right.deviation))
        return cls(Side(left, distinct(left.rows)), Side(right, distinct(right.rows)), error)

    def still(
        self, screen: Screen, i: Indices, j: Indices, bars: np.float32 | Floats
    ) -> tuple[Indices, Indices]:
        """Those candidates whose float32 product reaches their bar."""
        if screen.projection is None or not len(i):
            return i, j
        kept = self._products(i, j) >= bars
        return i[kept], j[kept]

    def cosines(self, i: Indices, j: Indices) -> Doubles:
        """The cosines of distinct rows, by definition."""
        return pair_cosines(
            self.left.unit.rows,
            self.right.unit.rows,
            self.left.places(i),
            self.right.places(j),
            squares=(self.left.unit.squares, self.right.unit.squares),
        )

    def _products(self, i: Indices, j: Indices) -> Floats:
        import faiss

        a, b = self.left.unit.rows, self.right.unit.rows
        i, j = (np.ascontiguousarray(part) for part in (self.left.places(i), self.right.places(j)))
        products = np.empty(len(i), dtype=np.float32)
        arrays = [faiss.swig_ptr(part) for part in (a, i, b, j, products)]
        faiss.pairwise_indexed_inner_product(a.shape[1], len(i), *arrays)  # type: ignore[attr-defined]
        return products


# ---- tiles ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """Scores (r, c) of the rows from `row` with the columns from `column`.

    They are overwritten by the next tile.
    """

    row: int
    column: int
    scores: Floats

    def hits(self, bars: np.float32 | Floats, most: int) -> Iterator[tuple[Indices, Indices]]:
        """Row and column numbers of scores at or above a bar, about `most` at a time."""
        mask = self.scores >= bars
        width = mask.shape[1]
        at_once = len(mask) if np.count_nonzero(mask) <= most else max(1, most // width)
        for start in range(0, len(mask), at_once):
            places = np.flatnonzero(mask[start : start + at_once])
            if len(places):
                yield places // width + (self.row + start), places % width + self.column


def _most_candidates(memory_budget: int) -> int:
    return max(1, memory_budget // 8 // _CANDIDATE)


def _tile_shape(columns: int, memory_budget: int) -> tuple[int, int]:
    width = max(1, min(_COLUMNS, columns))
    height = max(1, min(_ROWS, memory_budget // 4 // (_SCORE * width)))
    return height, width


def tiles(pair: Pair, screen: Screen, memory_budget: int) -> Iterator[Tile]:
    """All tiles of the product of both sides' distinct rows.

    What the screen makes of the right rows is kept for as many of them as the budget allows;
    the left rows are prepared anew for each such slab, which costs little beside its product.
    """
    height, width = _tile_shape(len(pair.right), memory_budget)
    buffer = np.empty(height * width, dtype=np.float32)
    dim = pair.right.unit.rows.shape[1]
    taken = screen.bytes_per_row() + (4 * dim if pair.right.copies.has_copies else 0)
    slab = max(width, memory_budget // 4 // taken) if taken else max(1, len(pair.right))
    for first in range(0, len(pair.right), slab):
        last = min(first + slab, len(pair.right))
        right = screen.prepare(*pair.right.block(first, last))
        for row in range(0, len(pair.left), height):
            left = screen.prepare(*pair.left.block(row, min(row + height, len(pair.left))))
            for column in range(first, last, width):
                part = right[column - first : column - first + width]
                scores = buffer[: len(left) * len(part)].reshape(len(left), len(part))
                np.matmul(left, part.T, out=scores)
                yield Tile(row, column, scores)


# ---- the nearest so far -----------------------------------------------------------------


def _rounded_down(bars: Doubles) -> Floats:
    """Bars for float32 scores, never above the given ones."""
    return np.nextafter(bars.astype(np.float32), np.float32(-2))


def _k_th(scores: Floats, k: int) -> Doubles:
    """The k-th largest score of each row, -inf where there are fewer."""
    if scores.shape[1] < k:
        return np.full(len(scores), -np.inf)
    largest = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k]
    return largest.astype(np.float64)


@dataclass(frozen=True)
class _Nearest:
    """The k nearest references found so far, in order; -1 and -inf where there are fewer.

    `least` (n,) is the cosine that counts for each query at least.
    """

    index: Indices
    similarity: Doubles
    least: Doubles

    @classmethod
    def none(cls, k: int, least: Doubles) -> _Nearest:
        """Nothing found yet."""
        shape = (len(least), k)
        return cls(np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf), least)

    @property
    def bars(self) -> Doubles:
        """What a reference must reach to be among a query's k, (n,)."""
        return np.maximum(self.similarity[:, -1], self.least)

    def offer(self, i: Indices, j: Indices, cosines: Doubles) -> None:
        """Take in pairs that were not offered before, in any order."""
        k = self.index.shape[1]
        counted = cosines >= self.bars[i]
        touched, own = np.unique(i[counted], return_inverse=True)
        old = np.repeat(np.arange(len(touched)), k)
        rows = np.concatenate([old, own])
        columns = np.concatenate([self.index[touched].ravel(), j[counted]])
        scores = np.concatenate([self.similarity[touched].ravel(), cosines[counted]])
        order = np.lexsort((columns, -scores, rows))
        first = np.searchsorted(rows[order], np.arange(len(touched)))
        rank = np.arange(len(rows)) - first[rows[order]]
        best = order[rank < k]
        self.index[touched] = columns[best].reshape(-1, k)
        self.similarity[touched] = scores[best].reshape(-1, k)

    def of_all(self, queries: Distinct, references: Distinct) -> tuple[Indices, Doubles]:
        """The index and similarity of all rows, from those of the distinct ones."""
        index, similarity = self.index, self.similarity
        if references.has_copies:
            index, similarity = self._expanded(references)
        if queries.has_copies:
            own = np.empty(len(queries.rows), dtype=np.int64)
            own[queries.rows] = np.repeat(np.arange(len(queries.first)), queries.counts)
            index, similarity = index[own], similarity[own]
        return index, similarity

    def _expanded(self, references: Distinct) -> tuple[Indices, Doubles]:
        """The k nearest rows from the k nearest distinct rows, which hold them all."""
        result = _Nearest.none(self.index.shape[1], self.least)
        k = self.index.shape[1]
        # No more than k copies of a row can be among the k nearest.
        counts = np.minimum(references.counts, k)
        firsts = Distinct(
            references.first,
            np.concatenate(
                [
                    references.rows[start : start + count]
                    for start, count in zip(references.start[:-1], counts, strict=True)
                ]
            ),
            np.append(0, np.cumsum(counts)),
        )
        nobody = Distinct(*(np.arange(len(self.index) + extra) for extra in (0, 0, 1)))
        for start in range(0, len(self.index), _ROWS):
            block = slice(start, start + _ROWS)
            i, rank = np.nonzero(self.index[block] >= 0)
            i += start
            pairs = (i, self.index[i, rank], self.similarity[i, rank])
            result.offer(*expanded(*pairs, nobody, firsts))
        return result.index, result.similarity
