"""Exact joins of unit vectors: all pairs above a threshold, and the k nearest.

Both work through tiles of a screen (`screen.py`), a product that only has to find candidates:
what it may be off by is bounded, so the bar is lowered by that much. Candidates are looked at
again, by a float32 product of the whole rows and then in float64. The result is that of the
float64 definition, whatever the screen, tiles, threads or memory. Rows that are copies of
another (`copies.py`) are worked on once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.copies import Distinct, expanded
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices
from imgsim_assets.similarity.join_input import Pair, Side
from imgsim_assets.similarity.screen import Screen, for_neighbors, for_threshold
from imgsim_assets.similarity.threads import processors, spread

R = TypeVar("R")

MEMORY_BUDGET = 256 << 20
_ROWS = 512
_COLUMNS = 2048
# Bands of fewer rows multiply more slowly.
_LEAST_ROWS = 256
# So many bands for each processor, that none is idle for long while the last are worked on.
_BANDS = 4
_ROWS_AT_ONCE = 64
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
    pair = Pair.of(Side.of(left, "left"), Side.of(right, "right"))
    return pairs_above(pair, threshold, memory_budget=memory_budget)


def pairs_above(
    pair: Pair, threshold: float, *, memory_budget: int = MEMORY_BUDGET
) -> tuple[Indices, Indices, Doubles]:
    """`threshold_join` of sides that are checked already."""
    # The longer side is worked through in bands, and nothing of it is kept.
    turned = len(pair.left) < len(pair.right)
    i, j, similarity = _distinct_above(pair.turned() if turned else pair, threshold, memory_budget)
    if turned:
        i, j = j, i
    i, j, similarity = expanded(i, j, similarity, pair.left.copies, pair.right.copies)
    order = np.lexsort((j, -similarity, i))
    return i[order], j[order], similarity[order]


def _distinct_above(
    pair: Pair, threshold: float, memory_budget: int
) -> tuple[Indices, Indices, Doubles]:
    """The pairs of distinct rows, in no order."""
    screen = for_threshold(pair, threshold)
    bar, again = (np.float32(threshold - error) for error in (screen.error, pair.error))
    most = _most_candidates(memory_budget)

    def matches(band: Band) -> list[tuple[Indices, Indices, Doubles]]:
        found = []
        for tile in band.tiles:
            for i, j in tile.hits(bar, most):
                if screen.projection is not None:
                    still = pair.products(i, j) >= again
                    i, j = i[still], j[still]
                cosines = pair.cosines(i, j)
                kept = cosines >= threshold
                found.append((i[kept], j[kept], cosines[kept]))
        return found

    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for own in over_bands(pair, screen, memory_budget, matches):
        found += own
    i, j, similarity = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return i, j, similarity


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
    pair = Pair.of(
        Side.of(queries, "queries"), Side.of(references, "references"), "queries", "references"
    )
    least = np.broadcast_to(np.asarray(at_least, dtype=np.float64), len(queries))
    return nearest(pair, k, least, memory_budget=memory_budget)


def nearest(
    pair: Pair, k: int, at_least: Doubles, *, memory_budget: int = MEMORY_BUDGET
) -> tuple[Indices, Doubles]:
    """`top_k` of sides that are checked already, with a bar (n,) for each query.

    Rows that are not of the left side have no neighbors.
    """
    found = _Nearest.none(k, pair.left.copies.least(at_least))
    screen = for_neighbors(pair, k, found.least)
    most = _most_candidates(memory_budget)

    def search(band: Band) -> None:
        likely = _Likely(pair, found, band.rows, most)
        for tile in band.tiles:
            bars = likely.bars
            least = _rounded_down(bars - screen.error)
            # While nothing has been found, a tile's own k best say more than a low bar does.
            if tile.column == 0 and tile.passing(least) > _MANY * k * len(tile.scores):
                bars = np.maximum(bars, _surely_reached(tile, pair, screen, k))
                least = _rounded_down(bars - screen.error)
            again = _rounded_down(bars - pair.error)
            for i, j in tile.hits(least[:, None], most):
                if screen.projection is None:
                    products = tile.scores[i - tile.row, j - tile.column]
                else:
                    products = pair.products(i, j)
                    still = products >= again[i - tile.row]
                    i, j, products = i[still], j[still], products[still]
                likely.take(i, j, products)
        likely.settle()

    for _ in over_bands(pair, screen, memory_budget, search):
        pass
    return found.of_all(pair.left, pair.right.copies, at_least, most)


def _surely_reached(tile: Tile, pair: Pair, screen: Screen, k: int) -> Doubles:
    """For each row of a tile, a cosine that k of its columns reach; -inf for fewer columns."""
    width = tile.scores.shape[1]
    if width < k:
        return np.full(len(tile.scores), -np.inf)
    pieces = [
        tile.scores[at : at + _ROWS_AT_ONCE] for at in range(0, len(tile.scores), _ROWS_AT_ONCE)
    ]
    if screen.projection is None:
        best = np.concatenate([np.partition(own, width - k, axis=1)[:, -k] for own in pieces])
    else:
        # Any k columns would do; the better they are, the fewer are looked at after them.
        columns = [np.argpartition(own, width - k, axis=1)[:, -k:].ravel() for own in pieces]
        rows = np.repeat(np.arange(len(tile.scores)), k)
        scores = pair.products(rows + tile.row, np.concatenate(columns) + tile.column)
        best = scores.reshape(-1, k).min(axis=1)
    return best.astype(np.float64) - pair.error


# ---- tiles ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """Scores (r, c) of the rows from `row` with the columns from `column`.

    They are overwritten by the next tile.
    """

    row: int
    column: int
    scores: Floats

    def passing(self, bars: Floats) -> int:
        """How many scores are at or above the bars of their rows (r,)."""
        return int(np.count_nonzero(self.scores >= bars[:, None]))

    def hits(self, bars: np.float32 | Floats, most: int) -> Iterator[tuple[Indices, Indices]]:
        """Row and column numbers of scores at or above a bar, about `most` at a time."""
        mask = self.scores >= bars
        width = mask.shape[1]
        at_once = len(mask) if np.count_nonzero(mask) <= most else max(1, most // width)
        for start in range(0, len(mask), at_once):
            places = np.flatnonzero(mask[start : start + at_once])
            if len(places):
                yield places // width + (self.row + start), places % width + self.column


@dataclass(frozen=True)
class Band:
    """Some left rows, and their tiles with all right rows of a slab, from left to right."""

    rows: slice
    tiles: Iterator[Tile]


def _most_candidates(memory_budget: int) -> int:
    return max(1, memory_budget // 8 // _CANDIDATE // processors())


def _tile_shape(rows: int, columns: int, memory_budget: int) -> tuple[int, int]:
    width = max(1, min(_COLUMNS, columns))
    fair = max(_LEAST_ROWS, -(-rows // (_BANDS * processors())))
    affordable = memory_budget // 4 // processors() // (_SCORE * width)
    return max(1, min(_ROWS, fair, affordable)), width


def over_bands(
    pair: Pair, screen: Screen, memory_budget: int, work: Callable[[Band], R]
) -> Iterator[R]:
    """The results of some work with every band, on all processors.

    All bands together cover every pair of both sides' distinct rows once. What the screen makes
    of the right rows is kept for as many of them as the budget allows, a slab; one slab follows
    the other. The left rows are prepared anew for each, which costs little beside the product.
    """
    height, width = _tile_shape(len(pair.left), len(pair.right), memory_budget)
    taken = screen.bytes_per_row() + (0 if pair.right.is_plain else 4 * pair.right.dim)
    slab = max(width, memory_budget // 4 // taken) if taken else max(1, len(pair.right))
    rows = range(0, len(pair.left), height)
    # Few bands would leave processors idle; their products and pieces are shared out instead.
    shared = spread if len(rows) >= processors() > 1 else map
    for first in range(0, len(pair.right), slab):
        last = min(first + slab, len(pair.right))
        right = _prepared(pair.right, screen, first, last)

        def work_on(row: int, first: int = first, right: Floats = right) -> R:
            own = slice(row, min(row + height, len(pair.left)))
            left = screen.prepare(*pair.left.block(own.start, own.stop))
            return work(Band(own, _tiles(row, left, first, right, width)))

        yield from shared(work_on, rows)


def _prepared(side: Side, screen: Screen, first: int, last: int) -> Floats:
    """What the screen makes of some rows."""
    if screen.projection is None or last - first < _ROWS * processors():
        return screen.prepare(*side.block(first, last))
    prepared = np.empty((last - first, screen.projection.width), dtype=np.float32)

    def fill(start: int) -> None:
        stop = min(start + _ROWS, last)
        prepared[start - first : stop - first] = screen.prepare(*side.block(start, stop))

    for _ in spread(fill, range(first, last, _ROWS)):
        pass
    return prepared


def _tiles(row: int, left: Floats, first: int, right: Floats, width: int) -> Iterator[Tile]:
    """The products of prepared left rows, from `row` on, with right rows, from `first` on."""
    buffer = np.empty(len(left) * width, dtype=np.float32)
    for column in range(0, len(right), width):
        part = right[column : column + width]
        scores = buffer[: len(left) * len(part)].reshape(len(left), len(part))
        np.matmul(left, part.T, out=scores)
        yield Tile(row, first + column, scores)


# ---- the nearest so far -----------------------------------------------------------------


def _rounded_down(bars: Doubles) -> Floats:
    """Bars for float32 scores, never above the given ones."""
    return np.nextafter(bars.astype(np.float32), np.float32(-2))


class _Likely:
    """Candidates by their float32 products, until it is known which of them are worth scoring.

    Most of those that come early are beaten later; only what may still be among the k nearest
    when all columns have been seen is scored in float64.
    """

    def __init__(self, pair: Pair, found: _Nearest, rows: slice, most: int) -> None:
        self._pair, self._found, self._rows, self._most = pair, found.of_rows(rows), rows, most
        self._pending: list[tuple[Indices, Indices, Floats]] = []
        self._count = 0
        # What a reference must reach to be looked at, of each row.
        self.bars = self._found.bars
        # The k greatest products of each row so far.
        self._best: Floats = np.full(self._found.index.shape, -np.inf, dtype=np.float32)

    def take(self, i: Indices, j: Indices, products: Floats) -> None:
        """Take in pairs that were not taken before."""
        if not len(i):
            return
        self._pending.append((i, j, products))
        self._count += len(i)
        self._raise_bars(i - self._rows.start, products)
        if self._count > self._most:
            self._drop_beaten()
            if 2 * self._count > self._most:
                self._score()

    def settle(self) -> None:
        """Score what may still be among the nearest, and offer it."""
        self._drop_beaten()
        self._score()

    def _raise_bars(self, i: Indices, products: Floats) -> None:
        """Of k products at or above a value, all k cosines are above it less the error."""
        k = self._best.shape[1]
        order = np.lexsort((-products, i))
        i, products = i[order], products[order]
        first = np.searchsorted(i, i)
        rank = np.arange(len(i)) - first
        fresh = np.full(self._best.shape, -np.inf, dtype=np.float32)
        fresh[i[rank < k], rank[rank < k]] = products[rank < k]
        touched = np.unique(i)
        both = np.concatenate([self._best[touched], fresh[touched]], axis=1)
        self._best[touched] = np.partition(both, k, axis=1)[:, k:]
        k_th = self._best.min(axis=1).astype(np.float64) - self._pair.error
        self.bars = np.maximum(self.bars, k_th)

    def _drop_beaten(self) -> None:
        kept = []
        for i, j, products in self._pending:
            still = products >= _rounded_down(self.bars[i - self._rows.start] - self._pair.error)
            kept.append((i[still], j[still], products[still]))
        self._pending = kept
        self._count = sum(len(i) for i, _, _ in kept)

    def _score(self) -> None:
        if self._count:
            i, j, _ = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
            self._found.offer(i - self._rows.start, j, self._pair.cosines(i, j))
            self.bars = np.maximum(self.bars, self._found.bars)
        self._pending, self._count = [], 0


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

    def of_rows(self, rows: slice) -> _Nearest:
        """Those of some queries; what is found for them is found here."""
        return _Nearest(self.index[rows], self.similarity[rows], self.least[rows])

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

    def of_all(
        self, queries: Side, references: Distinct, at_least: Doubles, most: int
    ) -> tuple[Indices, Doubles]:
        """The k nearest of all rows (n, k), of which these are the distinct ones; -1 and NaN.

        Copies are put in about `most` pairs at a time.
        """
        whole = self._expanded(references, most) if references.has_copies else self
        copies = queries.copies
        own = np.repeat(np.arange(len(copies.first)), copies.counts)
        index = np.full((len(queries.unit.rows), self.index.shape[1]), -1, dtype=np.int64)
        similarity = np.full(index.shape, np.nan)
        index[copies.rows], similarity[copies.rows] = whole.index[own], whole.similarity[own]
        # Copies of a query may ask for more than it does.
        beyond = (index < 0) | (similarity < at_least[:, None])
        index[beyond], similarity[beyond] = -1, np.nan
        if not references.has_copies and len(references.first):
            index[~beyond] = references.first[index[~beyond]]
        return index, similarity

    def _expanded(self, references: Distinct, most: int) -> _Nearest:
        """The k nearest rows from the k nearest distinct rows, which hold them all."""
        k = self.index.shape[1]
        result = _Nearest.none(k, self.least)
        # No more than k copies of a row can be among the k nearest.
        firsts = references.at_most(k)
        nobody = Distinct(*(np.arange(len(self.index) + extra) for extra in (0, 0, 1)))
        height = max(1, min(_ROWS, most // (2 * k)))
        for start in range(0, len(self.index), height):
            i, rank = self._within_reach(slice(start, start + height), firsts.counts)
            i += start
            # Of equals every one may be needed, so even one row's pairs can be very many.
            piece = np.cumsum(firsts.counts[self.index[i, rank]]) // most
            for part in np.split(np.arange(len(i)), np.flatnonzero(np.diff(piece)) + 1):
                own = (i[part], rank[part])
                pairs = (own[0], self.index[own], self.similarity[own])
                result.offer(*expanded(*pairs, nobody, firsts))
        return result

    def _within_reach(self, block: slice, counts: Indices) -> tuple[Indices, Indices]:
        """Row, from the block's first, and rank of those that may have a copy among the k nearest.

        `counts` (u,) are the copies of the references; k that are truly better leave no place,
        while among equals the row numbers of the copies decide.
        """
        index, similarity = self.index[block], self.similarity[block]
        found = index >= 0
        own = np.where(found, counts[index], 0)
        better = np.cumsum(own, axis=1) - own
        better[:, 1:][similarity[:, 1:] == similarity[:, :-1]] = 0
        better = np.maximum.accumulate(better, axis=1)
        i, rank = np.nonzero(found & (better < index.shape[1]))
        return i, rank
