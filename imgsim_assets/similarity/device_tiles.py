"""Score tiles on a device of torch, such as a GPU.

The device multiplies rounded rows, compacts the pairs that may reach a cutoff, and scores those
again by float32 products of whole rows. The float64 cosines that decide are computed by the same
code as without a device. Threads of this machine decide some row blocks while the device computes
the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from imgsim_assets.encoders.hardware import is_out_of_memory
from imgsim_assets.encoders.torch_device import with_float32_sums, without_tf32
from imgsim_assets.errors import DeviceMemoryError
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices
from imgsim_assets.similarity.device_rows import DeviceRows, fast_dtype, score_error, scores
from imgsim_assets.similarity.join_input import InputPair
from imgsim_assets.similarity.threads import parallel_map, worker_count
from imgsim_assets.similarity.tiles import RowBlock, rounded_down

R = TypeVar("R")

_MAX_ROWS, _MAX_COLUMNS = 8192, 32768
# Blocks of fewer rows multiply more slowly.
_MIN_ROWS = 512
# Bytes of a score in a tile: itself, that of the tile before, its element of a mask, and its share
# of the positions of hits and of gathered rows.
_SCORE_BYTES = 12
# Of the device's free memory, tiles take half, and a block of right rows an eighth: while one is
# replaced by the next, there are two.
_TILES_SHARE, _ROWS_SHARE = 2, 8
# With more hits than one in so many scores, a tile is compacted in parts.
_SCORES_PER_HIT = 8
# Bytes of a number of a row, whole and rounded.
_NUMBER_BYTES = 8
# A lower bound of the k-th best score is the k-th best of so many times k groups of columns.
_GROUPS_PER_NEIGHBOR = 8


@dataclass(frozen=True)
class _Shape:
    """Rows and columns of a tile, right rows that are on the device at once."""

    rows: int
    columns: int
    column_block: int

    @classmethod
    def of(cls, inputs: InputPair, free: int) -> _Shape:
        """The shape that fits into the free memory of a device."""
        n, m = len(inputs.left), len(inputs.right)
        threads = worker_count() + 1
        affordable = max(1, free // _TILES_SHARE // threads // _SCORE_BYTES)
        columns = max(1, min(m, _MAX_COLUMNS, math.isqrt(4 * affordable)))
        balanced = max(_MIN_ROWS, -(-n // (2 * threads)))
        rows = max(1, min(_MAX_ROWS, balanced, affordable // columns))
        block = free // _ROWS_SHARE // (_NUMBER_BYTES * max(1, inputs.left.dim))
        return cls(rows, columns, max(columns, min(m, block)))


def map_device_blocks(
    inputs: InputPair, device: torch.device, memory_budget: int, work: Callable[[RowBlock], R]
) -> Iterator[R]:
    """The results of `work` on every row block, whose tiles a device computes.

    Args:
        inputs: the left and right rows.
        device: computes the tiles.
        memory_budget: bytes for tiles on a device that has no memory of its own.
        work: called with a row block; it must consume the tiles in order.

    Raises:
        DeviceMemoryError: when the device has too little memory.
    """
    dtype = fast_dtype(device)
    shape = _Shape.of(inputs, _free_memory(device, memory_budget))
    starts = range(0, len(inputs.left), shape.rows)
    with ExitStack() as switches:
        if device.type == "cuda":
            switches.enter_context(with_float32_sums())
            switches.enter_context(without_tf32())
        try:
            for first in range(0, len(inputs.right), shape.column_block):
                last = min(first + shape.column_block, len(inputs.right))
                right = DeviceRows.of(inputs.right, first, last, device, dtype)

                def work_on(row: int, first: int = first, right: DeviceRows = right) -> R:
                    rows = slice(row, min(row + shape.rows, len(inputs.left)))
                    left = DeviceRows.of(inputs.left, rows.start, rows.stop, device, dtype)
                    pair = _DevicePair(inputs, left, right, rows.start, first)
                    return work(RowBlock(rows, pair.tiles(shape.columns)))

                yield from parallel_map(work_on, starts, waiting=1)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceMemoryError(
                f"device: {device} has too little free memory for the join; stop what else uses "
                "it, or set 'device: cpu'"
            ) from error


def _free_memory(device: torch.device, memory_budget: int) -> int:
    if device.type != "cuda":
        return memory_budget
    free, _ = torch.cuda.mem_get_info(device)
    # What torch holds of earlier tensors is free for new ones.
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + cached)


@dataclass(frozen=True)
class _DevicePair:
    """A row block and a column block on a device, which begin at `row` and `column`."""

    inputs: InputPair
    left: DeviceRows
    right: DeviceRows
    row: int
    column: int

    def tiles(self, width: int) -> Iterator[_DeviceTile]:
        """The tiles of `width` columns, from left to right."""
        error = score_error(self.left, self.right)
        for start in range(0, len(self.right.whole), width):
            product = scores(self.left.rounded, self.right.rounded[start : start + width])
            yield _DeviceTile(self, start, product, error)

    def products(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """The float32 products of whole rows."""
        return self.left.whole[i].mul_(self.right.whole[j]).sum(dim=1)


@dataclass(frozen=True)
class _DeviceTile:
    """A tile of the columns from `start` of a column block; its scores are off by `error`."""

    pair: _DevicePair
    start: int
    scores: torch.Tensor
    error: float

    @property
    def row(self) -> int:
        return self.pair.row

    @property
    def column(self) -> int:
        return self.pair.column + self.start

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.scores.shape
        return rows, columns

    def count_at_least(self, cutoffs: Doubles) -> int:
        return int((self.scores >= self._score_cutoffs(cutoffs)).count_nonzero())

    def kth_lower_bound(self, k: int) -> Doubles:
        height, width = self.shape
        if width < k:
            return np.full(height, -np.inf)
        # The greatest scores of k groups of columns are scores of k columns.
        size = max(1, width // (_GROUPS_PER_NEIGHBOR * k))
        groups = self.scores[:, : width // size * size].view(height, -1, size).amax(dim=2)
        kth: Doubles = groups.topk(k, dim=1).values[:, -1].double().cpu().numpy()
        return kth - self.error

    def candidates(
        self, cutoffs: Doubles | float, max_pairs: int
    ) -> Iterator[tuple[Indices, Indices, Floats]]:
        cutoffs = np.broadcast_to(np.asarray(cutoffs, dtype=np.float64), len(self.scores))
        product_cutoffs = self._on_device(rounded_down(cutoffs - self.pair.inputs.error))
        for i, j in self._hits(self._score_cutoffs(cutoffs), max_pairs):
            products = self.pair.products(i, j + self.start)
            self._check(self.scores[i, j], products)
            passed = products >= product_cutoffs[i]
            if passed.any():
                rows, columns = (part[passed].cpu().numpy() for part in (i, j))
                yield rows + self.row, columns + self.column, products[passed].cpu().numpy()

    def _score_cutoffs(self, cutoffs: Doubles) -> torch.Tensor:
        return self._on_device(rounded_down(cutoffs - self.error))[:, None]

    def _on_device(self, values: Floats) -> torch.Tensor:
        return torch.from_numpy(values).to(self.scores.device)

    def _hits(
        self, cutoffs: torch.Tensor, max_hits: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Rows and columns in the tile of scores that reach a cutoff, `max_hits` at a time."""
        mask = self.scores >= cutoffs
        height, width = mask.shape
        most = max(1, mask.numel() // _SCORES_PER_HIT)
        if int(mask.count_nonzero()) > most:
            height = max(1, most // width)
        # Both rows of a hit are gathered.
        gathered = mask.numel() // (3 * 4 * max(1, self.pair.left.whole.shape[1]))
        step = max(1, min(max_hits, gathered))
        for start in range(0, len(mask), height):
            positions = mask[start : start + height].nonzero()
            for first in range(0, len(positions), step):
                part = positions[first : first + step]
                yield part[:, 0] + start, part[:, 1]

    def _check(self, found: torch.Tensor, products: torch.Tensor) -> None:
        """Raise RuntimeError where the device is less exact than the proof of its bound says."""
        if not len(found):
            return
        difference = float((found - products).abs().max())
        bound = self.error + self.pair.inputs.error
        if not difference <= bound:
            raise RuntimeError(
                f"{found.device} multiplied two rows with an error of {difference:.3g}, and the "
                f"proven bound is {bound:.3g}: it does not add up in float32; set 'device: cpu'"
            )
