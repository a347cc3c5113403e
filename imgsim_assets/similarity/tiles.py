"""Score tiles: blocked matrix products of two join inputs within a memory budget.

Left rows are cut into blocks that are worked on in parallel; right rows into column blocks that
are prepared once and shared. A tile is the product of some rows with some columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from imgsim_assets.similarity.cosine import Floats, Indices
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
# Bytes of a score in a tile, with its element of a mask.
_SCORE_BYTES = 5
# Bytes of a candidate while it is scored: position, row numbers, scores.
_CANDIDATE_BYTES = 80


@dataclass(frozen=True)
class Tile:
    """Scores (r, c) of the rows from `row` with the columns from `column`.

    The next tile overwrites them.
    """

    row: int
    column: int
    scores: Floats

    def count_at_least(self, cutoffs: Floats) -> int:
        """How many scores reach the cutoffs (r,) of their rows."""
        return int(np.count_nonzero(self.scores >= cutoffs[:, None]))

    def hits(
        self, cutoffs: np.float32 | Floats, max_hits: int
    ) -> Iterator[tuple[Indices, Indices]]:
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
            return work(RowBlock(rows, _tiles(row, left, first, right, width)))

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


def _tiles(row: int, left: Floats, first: int, right: Floats, width: int) -> Iterator[Tile]:
    """The products of prepared left rows, from `row` on, with right rows, from `first` on."""
    buffer = np.empty(len(left) * width, dtype=np.float32)
    for column in range(0, len(right), width):
        part = right[column : column + width]
        scores = buffer[: len(left) * len(part)].reshape(len(left), len(part))
        np.matmul(left, part.T, out=scores)
        yield Tile(row, first + column, scores)
