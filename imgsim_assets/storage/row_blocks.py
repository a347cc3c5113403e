"""Rows of columns that are read in blocks, such as the ids and hashes of a large catalog.

Few rows stay in memory. More are written to a scratch file on the local disk as they come, and are
read from it by explicit ranges.
"""

from __future__ import annotations

import io
import os
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.compute.memory import rows_in_memory
from imgsim_assets.errors import TEMPORARY, errors_about

Indices = NDArray[np.int64]

# Rows of a block in a scratch file, and of those that are merged, of which many are read at once.
BLOCK_ROWS = 1 << 14
_MERGED_BLOCK_ROWS = 1 << 11
# One row in so many tells where merged rows are cut.
_ROWS_PER_SAMPLE = 1 << 8


class RowBlocks:
    """Rows of some columns, in their order."""

    def __init__(self, stored: _MemoryRows | _ScratchRows) -> None:
        self._stored = stored

    @classmethod
    def of(cls, rows: pl.DataFrame) -> RowBlocks:
        """Rows in memory."""
        return cls(_MemoryRows(rows))

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
        return cls(_stored(parts, schema, BLOCK_ROWS))

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self._stored.schema.names()

    @property
    def schema(self) -> pl.Schema:
        """The columns and their types."""
        return self._stored.schema

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pl.DataFrame]]:
        """All rows in blocks: the number of the first, and the rows; at least one block."""
        for start in range(0, max(1, len(self)), BLOCK_ROWS):
            yield start, self.read(start, start + BLOCK_ROWS, columns)

    def read(self, start: int, stop: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows from `start` to `stop`, or to the last; by default all their columns."""
        return self._stored.read(start, stop, columns)

    def gather(self, numbers: Indices, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Some rows (p,), in any order, the same one any number of times."""
        distinct, position = np.unique(numbers, return_inverse=True)
        return self._stored.gather(distinct, columns).select(pl.all().gather(position))

    def all(self) -> pl.DataFrame:
        """All rows at once."""
        return self.read(0, len(self))

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

    def equals(self, other: RowBlocks) -> bool:
        """Whether both have the same columns and rows."""
        if self is other:
            return True
        if len(self) != len(other) or self.schema != other.schema:
            return False
        return all(
            block.equals(other.read(start, start + block.height)) for start, block in self.blocks()
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return RowBlocks.of, (self.all(),)


def sorted_rows(parts: Iterable[pl.DataFrame], schema: pl.Schema, by: Sequence[str]) -> RowBlocks:
    """The rows of some parts in order; of rows with the same key the last one counts.

    Args:
        parts: frames with the columns of the schema, of which one is in memory at a time.
        schema: of the rows.
        by: the columns of the key, of which the first is a string.
    """
    stops: list[int] = []

    def ordered() -> Iterator[pl.DataFrame]:
        for part in parts:
            stops.append(part.height + (stops[-1] if stops else 0))
            # Equal keys stay in the order of the parts.
            yield part.sort(by, maintain_order=True)

    stored = _stored(ordered(), schema, _MERGED_BLOCK_ROWS)
    if isinstance(stored, _MemoryRows):
        return RowBlocks.of(_merged([stored.rows], by))
    # Strings of a frame that was merged keep those of all its pieces in memory.
    return RowBlocks(_in_scratch(_merge(stored, stops, by), schema, BLOCK_ROWS))


def begins_item(ids: pl.Series, before: str | None) -> NDArray[np.bool_]:
    """Which rows are the first of their item, (n,); `before` is the id of the row before them."""
    begins: NDArray[np.bool_] = ids.ne_missing(ids.shift(fill_value=before)).to_numpy()
    return begins


def item_count(rows: RowBlocks) -> int:
    """The number of different ids of rows that are sorted by id."""
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
    sides, starts, size = (left, right), [0, 0], BLOCK_ROWS
    while any(start < len(side) for start, side in zip(starts, sides, strict=True)):
        blocks = [side.read(at, at + size) for side, at in zip(sides, starts, strict=True)]
        # The last value of a block may go on in the next one.
        ends = [
            str(block[column][-1])
            for block, side, start in zip(blocks, sides, starts, strict=True)
            if start + block.height < len(side)
        ]
        if ends:
            end = min(ends)
            blocks = [block[: int(block[column].search_sorted(end, "left"))] for block in blocks]
        if not any(block.height for block in blocks):
            size *= 2
            continue
        starts = [start + block.height for start, block in zip(starts, blocks, strict=True)]
        size = BLOCK_ROWS
        yield blocks[0], blocks[1]


def _merge(stored: _ScratchRows, stops: Sequence[int], by: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The rows of sorted runs that end at `stops`, in order, about a block at a time."""
    first = by[0]
    sampled = np.arange(0, len(stored), _ROWS_PER_SAMPLE)
    sample = stored.gather(sampled, [first])[first].sort()
    bounds = sample.gather_every(max(1, BLOCK_ROWS // _ROWS_PER_SAMPLE)).unique(maintain_order=True)
    begins = list(zip([0, *stops], stops, strict=False))
    starts = [start for start, _ in begins]
    for after in [*bounds[1:].to_list(), None]:
        pieces = []
        for number, (_, stop) in enumerate(begins):
            end = stop if after is None else stored.search(first, after, starts[number], stop)
            pieces.append(stored.read(starts[number], end))
            starts[number] = end
        yield _merged(pieces, by)


def _merged(pieces: Sequence[pl.DataFrame], by: Sequence[str]) -> pl.DataFrame:
    rows = pl.concat(pieces).sort(by, maintain_order=True)
    return rows.unique(subset=by, keep="last", maintain_order=True)


class _MemoryRows:
    def __init__(self, rows: pl.DataFrame) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows.height

    @property
    def schema(self) -> pl.Schema:
        return self.rows.schema

    def read(self, start: int, stop: int, columns: Sequence[str] | None) -> pl.DataFrame:
        return self._of(columns)[start:stop]

    def gather(self, numbers: Indices, columns: Sequence[str] | None) -> pl.DataFrame:
        return self._of(columns).select(pl.all().gather(numbers))

    def _of(self, columns: Sequence[str] | None) -> pl.DataFrame:
        return self.rows if columns is None else self.rows.select(columns)


class _Block(NamedTuple):
    """A block in a scratch file: its rows, and where its bytes are."""

    start: int
    stop: int
    offset: int
    size: int


class _ScratchRows:
    """Blocks in a file in the folder for temporary files, which is deleted with the object."""

    def __init__(self, schema: pl.Schema) -> None:
        self.schema = schema
        self._blocks: list[_Block] = []
        self._starts: list[int] = []
        self._size = 0
        self._file, self._path = tempfile.mkstemp(prefix=TEMPORARY, suffix=".rows")
        # The open file stays readable, and nothing is left behind by a process that is killed.
        Path(self._path).unlink()
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self._blocks[-1].stop if self._blocks else 0

    def append(self, rows: pl.DataFrame) -> None:
        """Write the next block."""
        if not rows.height:
            return
        body = io.BytesIO()
        # Columns of the oldest level hold their own strings only, also those of a slice.
        rows.write_ipc(body, compat_level=pl.CompatLevel.oldest())
        with errors_about(self._path), open(self._file, "wb", closefd=False) as file:
            file.seek(self._size)
            file.write(body.getbuffer())
        start, size = len(self), body.tell()
        self._blocks.append(_Block(start, start + rows.height, self._size, size))
        self._starts.append(start)
        self._size += size

    def read(self, start: int, stop: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        start, stop = max(0, start), min(stop, len(self))
        if start >= stop:
            return self._none(columns)
        first, last = np.searchsorted(self._starts, [start, stop - 1], side="right") - 1
        parts = [
            block[max(0, start - at.start) : stop - at.start]
            for at in self._blocks[first : last + 1]
            for block in [self._read(at, columns)]
        ]
        return pl.concat(parts) if len(parts) > 1 else parts[0]

    def gather(self, numbers: Indices, columns: Sequence[str] | None) -> pl.DataFrame:
        """Some rows (p,), ascending."""
        starts = np.append(self._starts, len(self))
        bounds = np.searchsorted(numbers, starts)
        parts = [
            self._read(at, columns).select(pl.all().gather(numbers[low:high] - at.start))
            for at, low, high in zip(self._blocks, bounds[:-1], bounds[1:], strict=True)
            if low < high
        ]
        return pl.concat(parts) if parts else self._none(columns)

    def search(self, column: str, value: str, start: int, stop: int) -> int:
        """The first of some rows, sorted by a column, whose value is not less; or `stop`."""
        while start < stop:
            at = self._blocks[int(np.searchsorted(self._starts, start, side="right")) - 1]
            values = self.read(start, min(stop, at.stop), [column])[column]
            found = int(values.search_sorted(value, "left"))
            start += found
            if found < len(values):
                break
        return start

    def _none(self, columns: Sequence[str] | None) -> pl.DataFrame:
        rows = pl.DataFrame(schema=self.schema)
        return rows if columns is None else rows.select(columns)

    def _read(self, block: _Block, columns: Sequence[str] | None) -> pl.DataFrame:
        data = os.pread(self._file, block.size, block.offset)
        if len(data) != block.size:
            raise EOFError("a scratch file of rows has become shorter")
        return pl.read_ipc(data, columns=None if columns is None else list(columns))


def _stored(
    parts: Iterable[pl.DataFrame], schema: pl.Schema, block_rows: int
) -> _MemoryRows | _ScratchRows:
    """The rows of some parts: in memory while they fit, else in a scratch file."""
    waiting: deque[pl.DataFrame] = deque()
    size = 0
    remaining = iter(parts)
    for part in remaining:
        waiting.append(part.select(schema.names()))
        size += int(part.estimated_size())
        if size > rows_in_memory():
            break
    else:
        return _MemoryRows(pl.concat([pl.DataFrame(schema=schema), *waiting], rechunk=True))
    return _in_scratch(chain(_consumed(waiting), remaining), schema, block_rows)


def _consumed(parts: deque[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    while parts:
        yield parts.popleft()


def _in_scratch(parts: Iterable[pl.DataFrame], schema: pl.Schema, block_rows: int) -> _ScratchRows:
    """The rows of some parts in blocks of a scratch file."""
    scratch = _ScratchRows(schema)
    rest = pl.DataFrame(schema=schema)
    for part in parts:
        part = part.select(schema.names())
        rest = pl.concat([rest, part])
        whole = rest.height - rest.height % block_rows
        for start in range(0, whole, block_rows):
            scratch.append(rest[start : start + block_rows])
        rest = rest[whole:]
    scratch.append(rest)
    return scratch
