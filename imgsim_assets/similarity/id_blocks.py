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

    def rows_of(self, lists: pl.DataFrame) -> pl.DataFrame:
        """The rows whose left_id is in the range of the block, of rows that are sorted by it."""
        ids = lists["left_id"]
        start = ids.search_sorted(self.first)
        stop = len(ids) if self.after is None else ids.search_sorted(self.after)
        return lists[start:stop]


# All ids; the number of its rows is not known.
ALL_IDS = IdBlock(0, 0, "", None)


def id_blocks(ids: pl.Series) -> list[IdBlock]:
    """The blocks of rows with ascending ids, at least one; rows of one item are in one block.

    Rows in another order are one block.
    """
    if len(ids) <= MIN_ROWS or not ids.is_sorted():
        return [ALL_IDS._replace(stop=len(ids))]
    starts = [0, *_cuts(ids)]
    first = ["", *ids.gather(starts[1:]).to_list()]
    return [
        IdBlock(*block)
        for block in zip(starts, [*starts[1:], len(ids)], first, [*first[1:], None], strict=True)
    ]


def _cuts(ids: pl.Series) -> Iterator[int]:
    """The rows where a block begins, but for the first."""
    items = np.append(0, np.flatnonzero(ids.rle_id().diff().to_numpy()[1:]) + 1)
    hashes = np.array([zlib.crc32(each.encode()) for each in ids.gather(items).to_list()])
    candidates = items[hashes % MEAN_ROWS == 0]
    row = 0
    while True:
        found = np.searchsorted(candidates, row + MIN_ROWS)
        at_most = np.searchsorted(items, row + MAX_ROWS)
        nearest = min(
            int(candidates[found]) if found < len(candidates) else len(ids),
            int(items[at_most]) if at_most < len(items) else len(ids),
        )
        if nearest >= len(ids):
            return
        row = nearest
        yield row
