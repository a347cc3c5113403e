"""The right rows of a join in the order of their lists, so that a list is one range of rows.

Where only rows of one value are compared, the rows of each value have lists of their own: list n of
the value v has the number v * l + n, of l lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.similarity.approximate.assigned import AssignedSides
from imgsim_assets.similarity.approximate.lists import Numbers, RowLists
from imgsim_assets.similarity.cosine import Floats, Indices, UnitRows, unit_rows
from imgsim_assets.similarity.items import VALUE
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.row_numbers import RowNumbers, compact
from imgsim_assets.similarity.vector_blocks import Part, VectorBlocks, chosen_parts

# A chunk is in memory beside a block of left rows; smaller ones need more exact cosines.
_CHUNKS_PER_BLOCK = 2
# Numbers of lists; where they are lists of values, negative ones have no rows.
ListNumbers = NDArray[np.integer]


class ListChunk(NamedTuple):
    """Rows of some lists, in memory.

    Attributes:
        unit: the rows, (c, d).
        numbers: (c,) their numbers among all rows of the side.
        lists: (p,) numbers of the lists, ascending; a long list can be in several chunks.
        start: (p + 1,) where the rows of each begin.
    """

    unit: UnitRows
    numbers: Indices
    lists: ListNumbers
    start: Indices


@dataclass(frozen=True)
class ListedRows:
    """The rows of a side by list: those of `numbers[n]` are at `start[n]` up to `start[n + 1]`.

    Attributes:
        side: the rows in their own order.
        assigned: their lists.
        vectors: the rows in the order of the lists; None where they are read from the side.
        rows: (m,) their numbers in the side, ascending within a list.
        numbers: (p,) the numbers of the lists that have rows, ascending.
        start: (p + 1,) where each list begins.
        values: by value its number; None where all rows are compared.
    """

    side: JoinSide
    assigned: AssignedSides
    vectors: VectorBlocks | None
    rows: RowNumbers
    numbers: ListNumbers
    start: Indices
    values: pl.DataFrame | None

    @classmethod
    def of(cls, side: JoinSide, assigned: AssignedSides, *, read_once: bool = False) -> ListedRows:
        """The rows of a side by their lists.

        Args:
            side: the rows.
            assigned: the list of each row.
            read_once: whether each row is read about once; else they are copied in their order.
        """
        values = None
        if side.value is not None:
            distinct = side.value.unique().sort()
            values = pl.DataFrame({VALUE: distinct, "number": np.arange(len(distinct))})
        of_rows = _of_values(assigned.right, side.value, values, len(assigned.lists))
        rows = compact(np.argsort(of_rows, kind="stable"))
        in_order = of_rows[rows]
        first = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1])[: len(rows)])
        numbers = in_order[first].astype(np.int64)
        vectors = None
        if not read_once:
            vectors = VectorBlocks.from_parts(len(side), _Reordered(side.vectors, rows))
        return cls(side, assigned, vectors, rows, numbers, np.append(first, len(rows)), values)

    @property
    def mean_length(self) -> float:
        """How many rows a list has that has any."""
        return len(self.rows) / max(1, len(self.numbers))

    def are_probed(self, left: JoinSide, lists: RowLists) -> NDArray[np.bool_]:
        """Which left rows (n,) probe a list that has rows."""
        count = len(self.assigned.lists)
        has_rows = np.zeros(count, dtype=bool)
        has_rows[self.numbers % count] = True
        if has_rows.all():
            return np.ones(len(left), dtype=bool)
        return np.array(has_rows[lists.probed].any(axis=1))

    def own_lists(self, left: JoinSide, lists: RowLists) -> ListNumbers:
        """The lists of left rows, as numbered here, (n,)."""
        return _of_values(lists.own, left.value, self.values, len(self.assigned.lists))

    def probed_lists(self, left: JoinSide, lists: RowLists, rows: Indices) -> ListNumbers:
        """The lists that some left rows (p,) probe, as numbered here, (p, nprobe)."""
        value = left.value.gather(rows) if left.value is not None else None
        return _of_values(lists.probed[rows], value, self.values, len(self.assigned.lists))

    def open(self) -> None:
        """Copy the rows in the order of their lists now, unless they are read from the side."""
        if self.vectors is not None:
            self.vectors.open()

    def chunks(self, probed: ListNumbers) -> Iterator[ListChunk]:
        """The rows of some lists (p,), ascending, some of a block of rows at a time."""
        _, at, _ = np.intersect1d(self.numbers, probed, assume_unique=True, return_indices=True)
        for ranges in self._ranges(at):
            yield self._chunk(*(np.array(column) for column in zip(*ranges, strict=True)))

    def _chunk(self, lists: Indices, first: Indices, last: Indices) -> ListChunk:
        """The rows of ranges: of lists (p,), with the first row and the end of each."""
        start = np.append(0, np.cumsum(last - first))
        positions = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
        rows = self.rows[positions].astype(np.int64)
        unit = unit_rows(self._read(positions, rows), "vectors")
        return ListChunk(unit, rows, self.numbers[lists], start)

    def _read(self, positions: Indices, rows: Indices) -> NDArray[np.float32]:
        if self.vectors is None:
            return self.side.vectors.rows(rows)
        if positions[-1] - positions[0] + 1 == len(positions):
            return self.vectors.read(int(positions[0]), int(positions[-1]) + 1)
        return self.vectors.rows(positions)

    def _ranges(self, lists: Indices) -> Iterator[list[tuple[int, int, int]]]:
        """List, first row and end of what makes a chunk."""
        size = max(1, self.side.vectors.block_rows // _CHUNKS_PER_BLOCK)
        ranges: list[tuple[int, int, int]] = []
        count = 0
        for number in lists.tolist():
            first, end = int(self.start[number]), int(self.start[number + 1])
            while first < end:
                last = min(end, first + size - count)
                ranges.append((number, first, last))
                count += last - first
                first = last
                if count == size:
                    yield ranges
                    ranges, count = [], 0
        if ranges:
            yield ranges


def _of_values(
    numbers: Numbers, value: pl.Series | None, values: pl.DataFrame | None, count: int
) -> ListNumbers:
    """The numbers (n, ...) of `count` lists as those of the lists of the values of the rows (n,).

    Rows of a value that is not among the values get negative numbers.
    """
    if value is None or values is None:
        return numbers
    found = value.alias(VALUE).to_frame().join(values, on=VALUE, how="left", maintain_order="left")
    offset = found["number"].fill_null(-1).to_numpy() * count
    return offset.reshape(-1, *[1] * (numbers.ndim - 1)) + numbers


@dataclass(frozen=True)
class _Reordered:
    """Reads rows in another order, that of their numbers `rows` (m,)."""

    source: VectorBlocks
    rows: RowNumbers

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        position = np.empty_like(self.rows)
        position[self.rows] = np.arange(len(position), dtype=position.dtype)

        def part(block: tuple[int, Floats]) -> Part:
            first, vectors = block
            return position[first : first + len(vectors)].astype(np.int64), vectors

        # No block is kept while the next one is read.
        return chosen_parts(map(part, self.source.blocks()), rows)
