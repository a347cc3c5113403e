"""Score tiles: blocked matrix products of two join inputs within a memory budget.

Left rows are cut into blocks that are worked on in parallel; right rows into column blocks that
are prepared once and shared. A tile is the product of some rows with some columns. It is computed
here by NumPy, and on a GPU by `device_tiles.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from imgsim_assets.similarity.cosine import Doubles, Floats, Indices
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.prefilter import Prefilter
from imgsim_assets.similarity.threads import multi_threaded_map, parallel_map, worker_count

R = TypeVar("R")

MEMORY_BUDGET = 256 << 20
MAX_ROWS = 512
_MAX_COLUMNS = 2048
# Blocks of fewer rows multiply more slowly.
_MIN_ROWS = 256
# Row blocks for each worker, so that none is idle for long while the last blocks are worked on.
_BLOCKS_PER_WORKER = 4
# Rows of a tile that are partitioned at once, to stay in the cache.
_ROWS_PER_PARTITION = 64
# Bytes of a score in a tile, with its element of a mask.
_SCORE_BYTES = 5
# Bytes of a candidate while it is scored: position, row numbers, scores.
_CANDIDATE_BYTES = 80


class Tile(Protocol):
    """Scores (r, c) of the rows from `row` with the columns from `column`.

    The next tile of the row block may overwrite them. Cutoffs are cosines, one for all rows or (r,)
    one for each.
    """

    @property
    def row(self) -> int:
        """The first row."""

    @property
    def column(self) -> int:
        """The first column."""

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns."""

    def count_at_least(self, cutoffs: Doubles) -> int:
        """How many pairs may reach the cutoffs of their rows, as far as the scores tell."""

    def kth_lower_bound(self, k: int) -> Doubles:
        """For each row, a cosine that k of its columns reach; -inf for fewer columns."""

    def candidates(
        self, cutoffs: Doubles | float, max_pairs: int
    ) -> Iterator[tuple[Indices, Indices, Floats]]:
        """All pairs that may reach the cutoffs, about `max_pairs` at a time.

        Yields:
            Row numbers, column numbers, and the float32 products of whole rows, which are no
            further from the cosines than `InputPair.error`.
        """


@dataclass(frozen=True)
class _ScoreTile:
    """A tile whose scores are those of a prefilter."""

    inputs: InputPair
    prefilter: Prefilter
    row: int
    column: int
    scores: Floats

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.scores.shape
        return rows, columns

    def count_at_least(self, cutoffs: Doubles) -> int:
        return int(np.count_nonzero(self.scores >= self._score_cutoffs(cutoffs)))

    def kth_lower_bound(self, k: int) -> Doubles:
        height, width = self.shape
        if width < k:
            return np.full(height, -np.inf)
        starts = range(0, height, _ROWS_PER_PARTITION)
        parts = [self.scores[start : start + _ROWS_PER_PARTITION] for start in starts]
        if self.prefilter.projection is None:
            bound = np.concatenate([np.partition(part, width - k, axis=1)[:, -k] for part in parts])
        else:
            # Any k columns give a bound; the best by their scores give a high one.
            columns = [np.argpartition(part, width - k, axis=1)[:, -k:].ravel() for part in parts]
            rows = np.repeat(np.arange(height), k)
            products = self.inputs.products(rows + self.row, np.concatenate(columns) + self.column)
            bound = products.reshape(-1, k).min(axis=1)
        return bound.astype(np.float64) - self.inputs.error

    def candidates(
        self, cutoffs: Doubles | float, max_pairs: int
    ) -> Iterator[tuple[Indices, Indices, Floats]]:
        cutoffs = np.broadcast_to(np.asarray(cutoffs, dtype=np.float64), len(self.scores))
        product_cutoffs = rounded_down(cutoffs - self.inputs.error)
        for i, j in self._hits(self._score_cutoffs(cutoffs), max_pairs):
            if self.prefilter.projection is None:
                yield i, j, self.scores[i - self.row, j - self.column]
                continue
            products = self.inputs.products(i, j)
            passed = products >= product_cutoffs[i - self.row]
            yield i[passed], j[passed], products[passed]

    def _score_cutoffs(self, cutoffs: Doubles) -> Floats:
        return rounded_down(cutoffs - self.prefilter.error)[:, None]

    def _hits(self, cutoffs: Floats, max_hits: int) -> Iterator[tuple[Indices, Indices]]:
        """Row and column numbers of scores that reach a cutoff, about `max_hits` at a time."""
        mask = self.scores >= cutoffs
        width = mask.shape[1]
        height = len(mask) if np.count_nonzero(mask) <= max_hits else max(1, max_hits // width)
        for start in range(0, len(mask), height):
            positions = np.flatnonzero(mask[start : start + height])
            if len(positions):
                yield positions // width + (self.row + start), positions % width + self.column


@dataclass(frozen=True)
class RowBlock:
    """Some left rows, and their tiles with the rows of a column block, from left to right."""

    rows: slice
    tiles: Iterator[Tile]


def rounded_down(cutoffs: Doubles) -> Floats:
    """Cutoffs for float32 scores, never above the given ones."""
    return np.nextafter(cutoffs.astype(np.float32), np.float32(-2))


def max_candidates(memory_budget: int) -> int:
    """How many candidates a worker may hold."""
    return max(1, memory_budget // 8 // _CANDIDATE_BYTES // worker_count())


def map_row_blocks(
    inputs: InputPair, prefilter: Prefilter, memory_budget: int, work: Callable[[RowBlock], R]
) -> Iterator[R]:
    """The results of `work` on every row block, on all cores.

    All blocks together cover every pair of unique rows once. Prepared right rows are kept for as
    many of them as the budget allows, a column block; left rows are prepared again for each,
    which costs little beside the product.

    Args:
        inputs: the left and right rows.
        prefilter: prepares rows for the products.
        memory_budget: bytes for tiles, prepared rows and candidates.
        work: called with a row block; it must consume the tiles in order.
    """
    height, width = _tile_shape(len(inputs.left), len(inputs.right), memory_budget)
    row_bytes = 0
    if not prefilter.is_prepared(inputs.right):
        row_bytes = prefilter.bytes_per_row() + (
            0 if inputs.right.has_no_duplicates else 4 * inputs.right.dim
        )
    block = max(width, memory_budget // 4 // row_bytes) if row_bytes else max(1, len(inputs.right))
    starts = range(0, len(inputs.left), height)
    # With few blocks cores would be idle; then the products themselves are multi-threaded.
    map_blocks = parallel_map if len(starts) >= worker_count() > 1 else multi_threaded_map
    for first in range(0, len(inputs.right), block):
        last = min(first + block, len(inputs.right))
        right = _prepare(inputs.right, prefilter, first, last)

        def work_on(row: int, first: int = first, right: Floats = right) -> R:
            rows = slice(row, min(row + height, len(inputs.left)))
            left = prefilter.block(inputs.left, rows.start, rows.stop)
            scored = _scored(left, right, width)
            tiles = (
                _ScoreTile(inputs, prefilter, row, first + column, scores)
                for column, scores in scored
            )
            return work(RowBlock(rows, tiles))

        yield from map_blocks(work_on, starts)


def _tile_shape(rows: int, columns: int, memory_budget: int) -> tuple[int, int]:
    width = max(1, min(_MAX_COLUMNS, columns))
    balanced = max(_MIN_ROWS, -(-rows // (_BLOCKS_PER_WORKER * worker_count())))
    affordable = memory_budget // 4 // worker_count() // (_SCORE_BYTES * width)
    return max(1, min(MAX_ROWS, balanced, affordable)), width


def _prepare(side: JoinInput, prefilter: Prefilter, first: int, last: int) -> Floats:
    """The prepared rows of a column block."""
    is_small = last - first < MAX_ROWS * worker_count()
    if prefilter.projection is None or prefilter.is_prepared(side) or is_small:
        return prefilter.block(side, first, last)
    prepared = np.empty((last - first, prefilter.projection.width), dtype=np.float32)

    def fill(start: int) -> None:
        stop = min(start + MAX_ROWS, last)
        prepared[start - first : stop - first] = prefilter.block(side, start, stop)

    for _ in parallel_map(fill, range(first, last, MAX_ROWS)):
        pass
    return prepared


def _scored(left: Floats, right: Floats, width: int) -> Iterator[tuple[int, Floats]]:
    """The products of prepared left rows with `width` right rows at a time, from left to right."""
    buffer = np.empty(len(left) * width, dtype=np.float32)
    for column in range(0, len(right), width):
        part = right[column : column + width]
        scores = buffer[: len(left) * len(part)].reshape(len(left), len(part))
        np.matmul(left, part.T, out=scores)
        yield column, scores
