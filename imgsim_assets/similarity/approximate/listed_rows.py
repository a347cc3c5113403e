"""The right rows of a join in the order of their lists, so that a list is one range of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from imgsim_assets.similarity.approximate.lists import InvertedLists, Numbers
from imgsim_assets.similarity.cosine import Doubles, Indices, UnitRows, unit_rows
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.vector_blocks import Part, VectorBlocks


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
    lists: Indices
    start: Indices


@dataclass(frozen=True)
class ListedRows:
    """The rows of a side by list: those of list n are at `start[n]` up to `start[n + 1]`.

    Attributes:
        side: the rows in their own order.
        lists: what assigned them.
        vectors: the rows in the order of the lists.
        numbers: (m,) their numbers in the side, ascending within a list.
        start: (l + 1,) where each list begins.
        squares: (m,) squared lengths of the rows, in the order of the lists.
        deviation: the greatest difference of a length from 1.
    """

    side: JoinSide
    lists: InvertedLists
    vectors: VectorBlocks
    numbers: Indices
    start: Indices
    squares: Doubles
    deviation: float

    @classmethod
    def of(cls, side: JoinSide, lists: InvertedLists) -> ListedRows:
        """Assign the rows of a side to lists."""
        own, squares = np.empty(len(side), np.uint16), np.empty(len(side))
        deviation = 0.0
        for first, rows in side.vectors.blocks():
            unit = unit_rows(rows, "vectors")
            part = slice(first, first + len(rows))
            own[part], squares[part] = lists.own(unit), unit.squares
            deviation = max(deviation, unit.deviation)
        return cls._sorted(side, lists, own, squares, deviation)

    @classmethod
    def _sorted(
        cls, side: JoinSide, lists: InvertedLists, own: Numbers, squares: Doubles, deviation: float
    ) -> ListedRows:
        numbers = np.argsort(own, kind="stable")
        position = np.empty_like(numbers)
        position[numbers] = np.arange(len(numbers))
        vectors = VectorBlocks.from_parts(len(side), _Reordered(side.vectors, position))
        start = np.append(0, np.cumsum(np.bincount(own, minlength=len(lists))))
        return cls(side, lists, vectors, numbers, start, squares[numbers], deviation)

    def chunks(self, probed: Indices) -> Iterator[ListChunk]:
        """The rows of some lists (p,), ascending, about a block of rows at a time."""
        for ranges in self._ranges(probed):
            lists, first, last = (np.array(column) for column in zip(*ranges, strict=True))
            rows = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
            is_range = last[-1] - first[0] == len(rows)
            vectors = (
                self.vectors.read(int(first[0]), int(last[-1]))
                if is_range
                else self.vectors.rows(rows)
            )
            unit = UnitRows(vectors, self.squares[rows], self.deviation)
            start = np.append(0, np.cumsum(last - first))
            yield ListChunk(unit, self.numbers[rows], lists, start)

    def _ranges(self, probed: Indices) -> Iterator[list[tuple[int, int, int]]]:
        """List, first row and end of what makes a chunk."""
        size = self.vectors.block_rows
        ranges: list[tuple[int, int, int]] = []
        count = 0
        for number in probed.tolist():
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


@dataclass(frozen=True)
class _Reordered:
    """Reads rows into other positions (m,)."""

    source: VectorBlocks
    position: Indices

    def __call__(self) -> Iterator[Part]:
        for first, rows in self.source.blocks():
            yield self.position[first : first + len(rows)], rows
