"""Vectors that are read in blocks of rows, so that no step holds all of them in memory.

Few vectors stay in memory. More are copied once, file by file, into a scratch file on the local
disk, which is read by explicit ranges: pages of a mapped file would count as memory of the process.
"""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.compute.memory import block_bytes, vectors_in_memory
from imgsim_assets.errors import TEMPORARY, errors_about
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, pair_cosines

# Row numbers (p,) and their vectors (p, d): some rows of many.
Part = tuple[Indices, Floats]
# Reads all rows, in parts. It is called once by each process, and is pickled if another one is to.
ReadParts = Callable[[], Iterator[Part]]

# A block has at most so many rows.
MAX_BLOCK_ROWS = 1 << 16
# Vectors of pairs whose cosines are computed at once.
_MAX_PAIR_BYTES = 32 << 20
# Rows of a scratch file are read with those between them, if these are not many more.
_MAX_READ_PER_ROW = 4


class VectorBlocks:
    """Vectors (n, d) float32 by row number.

    Nothing is read before a row is asked for. A pickled object has no vectors: the process that
    unpickles it reads them again.
    """

    def __init__(self, stored: _Rows, rows: Indices | range | None = None) -> None:
        self._stored = stored
        self._rows = range(len(stored)) if rows is None else rows

    @classmethod
    def of(cls, vectors: Floats) -> VectorBlocks:
        """Vectors (n, d) in memory."""
        return cls(_MemoryRows(vectors))

    @classmethod
    def from_parts(cls, count: int, parts: ReadParts) -> VectorBlocks:
        """Vectors that are read when they are needed.

        Args:
            count: n.
            parts: yields all rows, each once, in any order.
        """
        return cls(_LazyRows(count, parts))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dim(self) -> int:
        """The width of a row; 0 where there are none."""
        return self._stored.dim

    @property
    def block_rows(self) -> int:
        """How many rows a block has, at least 1."""
        return max(1, min(MAX_BLOCK_ROWS, block_bytes() // max(1, 4 * self.dim)))

    def open(self) -> None:
        """Read the vectors now, where they would be read when a row is asked for."""
        _ = self.dim

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """All rows in blocks: the number of the first, and the vectors."""
        for start in range(0, len(self), self.block_rows):
            yield start, self.read(start, start + self.block_rows)

    def read(self, start: int, stop: int) -> Floats:
        """The rows from `start` to `stop`, or to the last."""
        rows = self._rows[start:stop]
        if isinstance(rows, range):
            return self._stored.span(rows.start, rows.stop)
        return self._stored.rows(rows)

    def rows(self, numbers: Indices) -> Floats:
        """Some rows (p,), in any order."""
        return self._stored.rows(self._stored_numbers(numbers))

    def all(self) -> Floats:
        """All rows at once, for few of them."""
        return self.read(0, len(self))

    def take(self, numbers: Indices) -> VectorBlocks:
        """Some rows (p,) as rows of their own; nothing is read."""
        return VectorBlocks(self._stored, self._stored_numbers(numbers))

    def slice(self, start: int, stop: int) -> VectorBlocks:
        """The rows from `start` to `stop` as rows of their own; nothing is read."""
        return VectorBlocks(self._stored, self._rows[start:stop])

    def _stored_numbers(self, numbers: Indices) -> Indices:
        if isinstance(self._rows, range):
            return numbers + self._rows.start if self._rows.start else numbers
        return self._rows[numbers]


def cosines(left: VectorBlocks, right: VectorBlocks, i: Indices, j: Indices) -> Doubles:
    """The float64 cosines (p,) of left rows i (p,) and right rows j, of which only these are read.

    At most 32 MiB of vectors are in memory at once.
    """
    found = np.empty(len(i))
    step = max(1, _MAX_PAIR_BYTES // (8 * max(1, left.dim)))
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        (a, of_left), (b, of_right) = _distinct(left, i[part]), _distinct(right, j[part])
        found[part] = pair_cosines(a, b, of_left, of_right)
    return found


def _distinct(vectors: VectorBlocks, numbers: Indices) -> tuple[Floats, Indices]:
    """The vectors of some rows, each once, and which of them each row has."""
    distinct, position = np.unique(numbers, return_inverse=True)
    return vectors.rows(distinct), position


class _Rows(Protocol):
    """Where vectors are."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int: ...

    def span(self, start: int, stop: int) -> Floats:
        """The rows from `start` to `stop`."""

    def rows(self, numbers: Indices) -> Floats:
        """Some rows."""


class _MemoryRows:
    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dim(self) -> int:
        return int(self._vectors.shape[1])

    def span(self, start: int, stop: int) -> Floats:
        return self._vectors[start:stop]

    def rows(self, numbers: Indices) -> Floats:
        return self._vectors[numbers]


class _ScratchRows:
    """A file of rows in the folder for temporary files; it is deleted with the object."""

    def __init__(self, count: int, dim: int) -> None:
        self._count, self.dim = count, dim
        self._file, self._path = tempfile.mkstemp(prefix=TEMPORARY, suffix=".vectors")
        # The open file stays readable, and nothing is left behind by a process that is killed.
        Path(self._path).unlink()
        with errors_about(self._path):
            os.truncate(self._file, count * dim * 4)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self._count

    def write(self, rows: Indices, vectors: Floats) -> None:
        """Store the vectors of some rows."""
        if not len(rows):
            return
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        # Runs of neighboring rows are written at once.
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for run in np.split(np.arange(len(rows)), starts[1:]):
            data = np.ascontiguousarray(vectors[order[run]], dtype=np.float32)
            with errors_about(self._path):
                _write(self._file, data, int(rows[run[0]]) * self.dim * 4)

    def span(self, start: int, stop: int) -> Floats:
        vectors = np.empty((max(0, stop - start), self.dim), dtype=np.float32)
        _read(self._file, vectors, start * self.dim * 4)
        return vectors

    def rows(self, numbers: Indices) -> Floats:
        steps = np.diff(numbers)
        if len(numbers) and steps.min(initial=1) > 0 and steps.max(initial=1) <= _MAX_READ_PER_ROW:
            # Most rows of a range: they are copied once.
            first = int(numbers[0])
            return self.span(first, int(numbers[-1]) + 1)[numbers - first]
        vectors = np.empty((len(numbers), self.dim), dtype=np.float32)
        order = np.argsort(numbers, kind="stable")
        ordered = numbers[order]
        # Rows that are far apart are read one by one, others together with those between them.
        gaps = np.flatnonzero(np.diff(ordered) > _MAX_READ_PER_ROW) + 1
        for run in np.split(np.arange(len(ordered)), gaps):
            if len(run):
                first, last = int(ordered[run[0]]), int(ordered[run[-1]])
                vectors[order[run]] = self.span(first, last + 1)[ordered[run] - first]
        return vectors


class _LazyRows:
    """Rows that are read on the first use, into memory or into a scratch file.

    Args:
        count: how many.
        parts: yields all rows.
        key: of the rows; another process reads rows of one key once.
    """

    def __init__(self, count: int, parts: ReadParts, key: str = "") -> None:
        self._count, self._parts = count, parts
        self._key = key or uuid.uuid4().hex
        self._lock = threading.Lock()
        self._stored: _Rows | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def dim(self) -> int:
        return self._open().dim if self._count else 0

    def span(self, start: int, stop: int) -> Floats:
        return self._open().span(start, stop)

    def rows(self, numbers: Indices) -> Floats:
        return self._open().rows(numbers)

    def _open(self) -> _Rows:
        with self._lock:
            if self._stored is None:
                self._stored = _filled(self._count, self._parts() if self._count else iter(()))
            return self._stored

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._count, self._parts, self._key)


# The rows that this process has unpickled last; as many as a join has sides.
_recent: OrderedDict[str, _LazyRows] = OrderedDict()
_MAX_RECENT = 2


def _unpickled(count: int, parts: ReadParts, key: str) -> _LazyRows:
    rows = _recent.pop(key, None) or _LazyRows(count, parts, key)
    _recent[key] = rows
    while len(_recent) > _MAX_RECENT:
        _recent.popitem(last=False)
    return rows


def _filled(count: int, parts: Iterator[Part]) -> _Rows:
    memory: Floats | None = None
    scratch: _ScratchRows | None = None
    for rows, vectors in parts:
        if memory is None and scratch is None:
            dim = vectors.shape[1]
            if count * dim * 4 <= vectors_in_memory():
                memory = np.empty((count, dim), dtype=np.float32)
            else:
                scratch = _ScratchRows(count, dim)
        if memory is not None:
            memory[rows] = vectors
        elif scratch is not None:
            scratch.write(rows, vectors)
        # Freed before the next part is read.
        del vectors
    if scratch is not None:
        return scratch
    return _MemoryRows(np.empty((0, 0), dtype=np.float32) if memory is None else memory)


def _write(file: int, data: NDArray[np.float32], offset: int) -> None:
    view = data.data.cast("B")
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _read(file: int, data: NDArray[np.float32], offset: int) -> None:
    view = data.data.cast("B") if data.size else memoryview(b"")
    while view:
        count = os.preadv(file, [view], offset)
        if not count:
            raise EOFError("a scratch file of vectors has become shorter")
        view, offset = view[count:], offset + count
