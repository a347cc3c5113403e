"""Blocks of rows by the ids of their items: what a result stores one file for.

Ids themselves decide where a block ends, as in content-defined chunking. So an added or removed
item changes its own block only, and the blocks do not depend on earlier versions.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.storage.row_blocks import RowBlocks, begins_item

# Rows of a block: at least, at most, and how many follow the least on average.
MIN_ROWS = 1 << 12
MAX_ROWS = 3 << 13
MEAN_ROWS = 1 << 13


class IdBlock(NamedTuple):
    """Rows from `start` to `stop`: those of the ids from `first` up to, not with, `after`.

    The first block begins with the empty string, and the last one ends with None.
    """

    start: int
    stop: int
    first: str
    after: str | None

    def holds(self, ids: pl.Series) -> NDArray[np.bool_]:
        """Which ids, or keys of rows, are in the range of the block."""
        inside = ids >= self.first
        if self.after is not None:
            inside &= ids < self.after
        return inside.to_numpy()

    def rows_of(self, rows: pl.DataFrame, column: str = "left_id") -> pl.DataFrame:
        """The rows whose id is in the range of the block, of rows that are sorted by it."""
        ids = rows[column]
        start = ids.search_sorted(self.first, "left")
        stop = len(ids) if self.after is None else ids.search_sorted(self.after, "left")
        return rows[start:stop]


# All ids; the number of its rows is not known.
ALL_IDS = IdBlock(0, 0, "", None)


def id_blocks(rows: RowBlocks) -> list[IdBlock]:
    """The blocks of rows, at least one; rows of one item follow each other, and are in one block.

    Of rows in another order than that of ids, a block has the first id that it is named by, but not
    the range of ids: only `start` and `stop` say what is in it.

    Args:
        rows: with the column id.
    """
    return rows.once(_id_blocks)


def _id_blocks(rows: RowBlocks) -> list[IdBlock]:
    if len(rows) <= MIN_ROWS:
        return [ALL_IDS._replace(stop=len(rows))]
    items = _Items.of(rows)
    starts = [0, *items.cuts()]
    known = dict(zip(items.candidates.tolist(), items.candidate_ids, strict=True))
    others = np.array([start for start in starts[1:] if start not in known], np.int64)
    known |= zip(others.tolist(), rows.gather(others, ["id"])["id"].to_list(), strict=True)
    first = ["", *(known[start] for start in starts[1:])]
    return [
        IdBlock(*block)
        for block in zip(starts, [*starts[1:], len(rows)], first, [*first[1:], None], strict=True)
    ]


class _Items(NamedTuple):
    """Where items begin.

    Attributes:
        begins: (n,) whether the row is the first of its item.
        candidates: rows where a block may end early, ascending.
        candidate_ids: their ids.
    """

    begins: NDArray[np.bool_]
    candidates: NDArray[np.int64]
    candidate_ids: list[str]

    @classmethod
    def of(cls, rows: RowBlocks) -> _Items:
        """Those of rows of which those of an item follow each other."""
        begins = np.empty(len(rows), dtype=bool)
        candidates, candidate_ids = [], []
        last: str | None = None
        for start, block in rows.blocks(["id"]):
            ids = block["id"]
            of_block = begins_item(ids, last)
            begins[start : start + len(ids)] = of_block
            first = np.flatnonzero(of_block)
            encoded = ids.gather(first).cast(pl.Binary).to_list()
            hashes = np.fromiter(map(zlib.crc32, encoded), np.int64, len(encoded))
            candidates.append(start + first[hashes % MEAN_ROWS == 0])
            candidate_ids += ids.gather(candidates[-1] - start).to_list()
            last = ids[-1]
        return cls(begins, np.concatenate(candidates), candidate_ids)

    def cuts(self) -> Iterator[int]:
        """The rows where a block begins, but for the first."""
        count, row = len(self.begins), 0
        while True:
            found = np.searchsorted(self.candidates, row + MIN_ROWS)
            at_most = self._next_item(row + MAX_ROWS)
            early = int(self.candidates[found]) if found < len(self.candidates) else count
            row = min(early, at_most)
            if row >= count:
                return
            yield row

    def _next_item(self, row: int) -> int:
        """The first row, not before `row`, where an item begins; or the number of rows."""
        while row < len(self.begins):
            found = np.flatnonzero(self.begins[row : row + MAX_ROWS])
            if len(found):
                return row + int(found[0])
            row += MAX_ROWS
        return len(self.begins)
