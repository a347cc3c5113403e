"""Rows of columns that are read in blocks, such as the ids and hashes of a large catalog.

Few rows stay in memory. More are written to a scratch file on the local disk as they come, and are
read from it by explicit ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.storage.stored_rows import Indices, MemoryRows, ScratchRows, stored

T = TypeVar("T")

# Rows of a block in a scratch file.
BLOCK_ROWS = 1 << 14


class RowBlocks:
    """Rows of some columns, in their order, which never change."""

    def __init__(
        self, rows: MemoryRows | ScratchRows, columns: Sequence[str] | None = None
    ) -> None:
        self._stored = rows
        self._columns = rows.schema.names() if columns is None else list(columns)
        self._known: dict[Callable[[RowBlocks], Any], Any] = {}

    @classmethod
    def of(cls, rows: pl.DataFrame) -> RowBlocks:
        """Rows in memory."""
        return cls(MemoryRows(rows))

    @classmethod
    def collect(cls, parts: Iterable[pl.DataFrame], schema: pl.Schema | None = None) -> RowBlocks:
        """The rows of some parts, one after the other, of which one is in memory at a time.

        Args:
            parts: frames with the columns of the schema.
            schema: of the rows; by default that of the first part, of which there is one at least.
        """
        if schema is None:
            first, parts = next(remaining := iter(parts)), remaining
            schema, parts = first.schema, chain([first], parts)
        return cls(stored(parts, schema, BLOCK_ROWS))

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self._columns

    @property
    def schema(self) -> pl.Schema:
        """The columns and their types."""
        return pl.Schema({name: self._stored.schema[name] for name in self._columns})

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
        """All rows in blocks: the number of the first, and the rows; at least one block."""
        for start in range(0, max(1, len(self)), BLOCK_ROWS):
            yield start, self.read(start, start + BLOCK_ROWS, columns)

    def read(self, start: int, stop: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows from `start` to `stop`, or to the last; by default all their columns."""
        return self._stored.read(start, stop, self._columns if columns is None else columns)

    def gather(self, numbers: Indices, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Some rows (p,), in any order, the same one any number of times."""
        distinct, position = np.unique(numbers, return_inverse=True)
        rows = self._stored.gather(distinct, self._columns if columns is None else columns)
        return rows.select(pl.all().gather(position))

    def all(self) -> pl.DataFrame:
        """All rows at once."""
        return self.read(0, len(self))

    def filter(self, predicate: pl.Expr, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows that meet a predicate, for few of them; by default with all their columns."""
        return pl.concat(block.filter(predicate) for _, block in self.blocks(columns))

    def select(self, columns: Sequence[str]) -> RowBlocks:
        """The same rows with some of their columns; nothing is copied."""
        return RowBlocks(self._stored, columns)

    def once(self, function: Callable[[RowBlocks], T]) -> T:
        """What a function makes of the rows, which is computed the first time."""
        if function not in self._known:
            self._known[function] = function(self)
        return cast(T, self._known[function])

    def map(
        self, function: Callable[[pl.DataFrame], pl.DataFrame], schema: pl.Schema | None = None
    ) -> RowBlocks:
        """What a function makes of each block.

        Args:
            function: of a block.
            schema: of its results; by default that of the rows.
        """
        parts = (function(block) for _, block in self.blocks())
        return RowBlocks.collect(parts, self.schema if schema is None else schema)

    def is_same(self, other: RowBlocks) -> bool:
        """Whether both are the same columns of the same stored rows, which are not read."""
        return self._stored is other._stored and self._columns == other._columns

    def equals(self, other: RowBlocks) -> bool:
        """Whether both have the same columns and rows."""
        if self.is_same(other):
            return True
        if len(self) != len(other) or self.schema != other.schema:
            return False
        return all(
            block.equals(other.read(start, start + block.height)) for start, block in self.blocks()
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return RowBlocks.of, (self.all(),)


def begins_item(ids: pl.Series, before: str | None) -> NDArray[np.bool_]:
    """Which rows are the first of their item, (n,); `before` is the id of the row before them."""
    begins: NDArray[np.bool_] = ids.ne_missing(ids.shift(fill_value=before)).to_numpy()
    return begins


def ids_ascend(rows: RowBlocks) -> bool:
    """Whether each id is greater than the one before it, so that every row is of another item."""
    return rows.once(_ids_ascend)


def item_count(rows: RowBlocks) -> int:
    """The number of different ids of rows that are sorted by id."""
    return len(rows) if ids_ascend(rows) else rows.once(_item_count)


def _ids_ascend(rows: RowBlocks) -> bool:
    before: str | None = None
    for _, block in rows.blocks(["id"]):
        ids = block["id"]
        if not (ids.shift(fill_value=before) < ids).fill_null(value=before is None).all():
            return False
        before = ids[-1] if len(ids) else None
    return True


def _item_count(rows: RowBlocks) -> int:
    count, before = 0, None
    for _, block in rows.blocks(["id"]):
        count += int(begins_item(block["id"], before).sum())
        before = block["id"][-1] if block.height else None
    return count


def matched_blocks(
    left: RowBlocks, right: RowBlocks, column: str
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Both rows in blocks that have the same values of a column, by which both are sorted.

    All rows of a value are in one block.
    """
    sides, size = (_Reader(left, column), _Reader(right, column)), BLOCK_ROWS
    while True:
        has_rows = [side.read(size) for side in sides]
        if not any(has_rows):
            return
        # The last value that was read may go on in rows that were not.
        ends = [side.last for side in sides if side.has_more]
        parts = [side.take(min(ends) if ends else None) for side in sides]
        if any(part.height for part in parts):
            yield parts[0], parts[1]
        size = BLOCK_ROWS if any(part.height for part in parts) else 2 * size


class _Reader:
    """Reads rows, sorted by a column, in blocks, and gives them out by its values."""

    def __init__(self, rows: RowBlocks, column: str) -> None:
        self._rows, self._column, self._next = rows, column, 0
        self._read = rows.read(0, 0)

    @property
    def has_more(self) -> bool:
        """Whether not all rows have been read."""
        return self._next < len(self._rows)

    @property
    def last(self) -> str:
        """The value of the last row that was read."""
        return str(self._read[self._column][-1])

    def read(self, count: int) -> bool:
        """Read on until so many rows have not been given out; whether there are any."""
        parts = [self._read]
        height = self._read.height
        while height < count and self.has_more:
            parts.append(self._rows.read(self._next, self._next + BLOCK_ROWS))
            height += parts[-1].height
            self._next += parts[-1].height
        self._read = pl.concat(parts)
        return height > 0

    def take(self, end: str | None) -> pl.DataFrame:
        """The rows before a value, None for all of them."""
        values = self._read[self._column]
        count = len(values) if end is None else int(values.search_sorted(end, "left"))
        rows, self._read = self._read[:count], self._read[count:]
        return rows
