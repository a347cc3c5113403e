"""Where rows in blocks are: in memory while they are few, else in a scratch file."""

from __future__ import annotations

import io
import os
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.compute.memory import rows_in_memory
from imgsim_assets.errors import TEMPORARY, errors_about

Indices = NDArray[np.int64]


class MemoryRows:
    """Rows of a frame."""

    def __init__(self, rows: pl.DataFrame) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows.height

    @property
    def schema(self) -> pl.Schema:
        """The columns and their types."""
        return self.rows.schema

    def read(self, start: int, stop: int, columns: Sequence[str]) -> pl.DataFrame:
        """The rows from `start` to `stop`, or to the last."""
        return self.rows[columns][max(0, start) : stop]

    def gather(self, numbers: Indices, columns: Sequence[str]) -> pl.DataFrame:
        """Some rows (p,), ascending."""
        return self.rows.select(pl.col(columns).gather(numbers))


class _Block(NamedTuple):
    """A block in a scratch file: its rows, and where its bytes are."""

    start: int
    stop: int
    offset: int
    size: int


class ScratchRows:
    """Blocks in a file in the folder for temporary files, which is deleted with the object."""

    def __init__(self, schema: pl.Schema) -> None:
        self.schema = schema
        self._blocks: list[_Block] = []
        self._starts: list[int] = []
        self._size = 0
        self._rest = pl.DataFrame(schema=schema)
        self._file, self._path = tempfile.mkstemp(prefix=TEMPORARY, suffix=".rows")
        # The open file stays readable, and nothing is left behind by a process that is killed.
        Path(self._path).unlink()
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self._blocks[-1].stop if self._blocks else 0

    def extend(self, rows: pl.DataFrame, block_rows: int) -> None:
        """Add rows, and write those that fill blocks; `flush` writes the others."""
        rows = pl.concat([self._rest, rows])
        whole = rows.height - rows.height % block_rows
        for start in range(0, whole, block_rows):
            self._append(rows[start : start + block_rows])
        self._rest = rows[whole:]

    def flush(self) -> None:
        """Write the rows that fill no block as a block of their own."""
        if self._rest.height:
            self._append(self._rest)
        self._rest = self._rest.clear()

    def block_end(self, row: int) -> int:
        """The first row behind the block of a row."""
        return self._blocks[int(np.searchsorted(self._starts, row, side="right")) - 1].stop

    def read(self, start: int, stop: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows from `start` to `stop`, or to the last; by default all their columns."""
        start, stop = max(0, start), min(stop, len(self))
        if start >= stop:
            return self._none(columns)
        first, last = np.searchsorted(self._starts, [start, stop - 1], side="right") - 1
        parts = [
            self._read(at, columns)[max(0, start - at.start) : stop - at.start]
            for at in self._blocks[first : last + 1]
        ]
        return pl.concat(parts) if len(parts) > 1 else parts[0]

    def gather(self, numbers: Indices, columns: Sequence[str]) -> pl.DataFrame:
        """Some rows (p,), ascending."""
        bounds = np.searchsorted(numbers, [*self._starts, len(self)])
        parts = [
            with_own_strings(self._read(at, columns)[numbers[low:high] - at.start])
            for at, low, high in zip(self._blocks, bounds[:-1], bounds[1:], strict=True)
            if low < high
        ]
        return pl.concat(parts) if parts else self._none(columns)

    def _append(self, rows: pl.DataFrame) -> None:
        data = rows.rechunk().serialize()
        with errors_about(self._path), open(self._file, "wb", closefd=False) as file:
            file.seek(self._size)
            file.write(data)
        start = len(self)
        self._blocks.append(_Block(start, start + rows.height, self._size, len(data)))
        self._starts.append(start)
        self._size += len(data)

    def _read(self, block: _Block, columns: Sequence[str] | None) -> pl.DataFrame:
        data = os.pread(self._file, block.size, block.offset)
        if len(data) != block.size:
            raise EOFError("a scratch file of rows has become shorter")
        rows = pl.DataFrame.deserialize(io.BytesIO(data))
        return rows if columns is None else rows[columns]

    def _none(self, columns: Sequence[str] | None) -> pl.DataFrame:
        rows = pl.DataFrame(schema=self.schema)
        return rows if columns is None else rows[columns]


def stored(
    parts: Iterable[pl.DataFrame], schema: pl.Schema, block_rows: int
) -> MemoryRows | ScratchRows:
    """The rows of some parts: in memory while they fit, else in a scratch file."""
    few, others = that_fit(part.select(schema.names()) for part in parts)
    if others is None:
        return MemoryRows(pl.concat([pl.DataFrame(schema=schema), *few], rechunk=True))
    return in_scratch(others, schema, block_rows)


def that_fit(
    parts: Iterable[pl.DataFrame],
) -> tuple[Sequence[pl.DataFrame], Iterator[pl.DataFrame] | None]:
    """The parts that stay in memory; or none of them, and all parts, if they do not fit."""
    waiting: deque[pl.DataFrame] = deque()
    size = 0
    remaining = iter(parts)
    for part in remaining:
        size += int(part.estimated_size())
        if size > rows_in_memory():
            return [], chain(_consumed(waiting), [part], remaining)
        waiting.append(with_own_strings(part))
    return waiting, None


def with_own_strings(rows: pl.DataFrame) -> pl.DataFrame:
    """The same rows; those of a larger frame would keep all of its strings in memory."""
    return pl.DataFrame.deserialize(io.BytesIO(rows.rechunk().serialize()))


def in_scratch(parts: Iterable[pl.DataFrame], schema: pl.Schema, block_rows: int) -> ScratchRows:
    """The rows of some parts in blocks of a scratch file."""
    scratch = ScratchRows(schema)
    for part in parts:
        scratch.extend(part.select(schema.names()), block_rows)
    scratch.flush()
    return scratch


def _consumed(parts: deque[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    while parts:
        yield parts.popleft()
