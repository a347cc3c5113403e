"""The candidate pairs of a join in tiles: some left rows with rows of one list.

Left rows are taken in groups of near lists, so that many rows of a group are compared with the
same list, and a tile is one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np

from imgsim_assets.similarity.approximate.lists import InvertedLists, Numbers
from imgsim_assets.similarity.cosine import Floats, Indices, UnitRows
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.threads import multi_threaded_map, parallel_map, worker_count
from imgsim_assets.similarity.unique_rows import UniqueRows

R = TypeVar("R")

_ROWS_PER_GROUP = 4096
# A tile of so many scores stays in the cache.
_MAX_TILE_ROWS = 2048
_MAX_TILE_COLUMNS = 512


@dataclass(frozen=True)
class ListTile:
    """Products (r, c) of rows of a group with right rows of one list.

    `rows` (r,) are positions in the group and `columns` (c,) unique right rows. `is_first` tiles
    of a row are those with its own list, and come before all others.
    """

    rows: Indices
    columns: Indices
    products: Floats
    is_first: bool

    def hits(self, cutoffs: np.float32 | Floats) -> tuple[Indices, Indices, Floats]:
        """Positions in the group, right rows and products of pairs that reach a cutoff."""
        i, j = np.nonzero(self.products >= cutoffs)
        return self.rows[i], self.columns[j], self.products[i, j]


@dataclass(frozen=True)
class RowGroup:
    """Some unique left rows as an input of their own, with their candidates.

    `positions` (g,) are their numbers among all unique left rows; in `inputs` they are numbered
    from 0.
    """

    positions: Indices
    inputs: InputPair
    tiles: Iterator[ListTile]


def map_row_groups(
    inputs: InputPair, lists: InvertedLists, work: Callable[[RowGroup], R]
) -> Iterator[R]:
    """The results of `work` on groups that cover the unique left rows once, on all cores."""
    own, probed = lists.assign(inputs.left, probed=True)
    is_self = inputs.left is inputs.right
    own_right = own if is_self else lists.assign(inputs.right, probed=False).own
    members = _Members.of(own_right, len(lists))
    order = np.argsort(own, kind="stable")
    count = len(order)
    height = min(_ROWS_PER_GROUP, max(1, -(-count // worker_count())))
    starts = range(0, count, height)

    def work_on(start: int) -> R:
        positions = order[start : start + height]
        part = InputPair(_part(inputs.left, positions), inputs.right, inputs.error)
        tiles = _tiles(part, members, probed[positions], own[positions])
        return work(RowGroup(positions, part, tiles))

    # With few groups cores would be idle; then the products themselves are multi-threaded.
    map_groups = parallel_map if len(starts) >= worker_count() > 1 else multi_threaded_map
    yield from map_groups(work_on, starts)


@dataclass(frozen=True)
class _Members:
    """The rows of each list: those of list n are `rows[start[n] : start[n + 1]]`, ascending."""

    rows: Indices
    start: Indices

    @classmethod
    def of(cls, own: Numbers, lists: int) -> _Members:
        counts = np.bincount(own, minlength=lists)
        return cls(np.argsort(own, kind="stable"), np.append(0, np.cumsum(counts)))

    def of_list(self, number: int) -> Indices:
        return self.rows[self.start[number] : self.start[number + 1]]


def _part(side: JoinInput, positions: Indices) -> JoinInput:
    """Some unique rows as an input of their own, numbered from 0."""
    rows = side.row_numbers(positions)
    unit = UnitRows(side.unit.rows[rows], side.unit.squares[rows], side.unit.deviation)
    numbers = np.arange(len(rows))
    return JoinInput(unit, UniqueRows(numbers, numbers, np.arange(len(rows) + 1)))


def _tiles(
    inputs: InputPair, members: _Members, probed: Numbers, own: Numbers
) -> Iterator[ListTile]:
    """The products of the rows of a group, of their own lists first."""
    count, width = probed.shape
    rows, numbers = np.repeat(np.arange(count), width), probed.ravel()
    is_own = numbers == own[rows]
    for is_first in (True, False):
        chosen = is_own == is_first
        order = np.argsort(numbers[chosen], kind="stable")
        by_list, of_row = numbers[chosen][order], rows[chosen][order]
        starts = np.flatnonzero(np.diff(by_list.astype(np.int64), prepend=-1, append=-1))
        for start, stop in pairwise(starts):
            columns = members.of_list(int(by_list[start]))
            yield from _products(inputs, of_row[start:stop], columns, is_first=is_first)


def _products(
    inputs: InputPair, rows: Indices, columns: Indices, *, is_first: bool
) -> Iterator[ListTile]:
    for at in range(0, len(columns), _MAX_TILE_COLUMNS):
        some_columns = columns[at : at + _MAX_TILE_COLUMNS]
        right = inputs.right.unit.rows[inputs.right.row_numbers(some_columns)]
        for begin in range(0, len(rows), _MAX_TILE_ROWS):
            some_rows = rows[begin : begin + _MAX_TILE_ROWS]
            products = inputs.left.unit.rows[some_rows] @ right.T
            yield ListTile(some_rows, some_columns, products, is_first)
