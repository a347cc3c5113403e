"""Rows of vectors in memory, or in a scratch file on the local disk.

A scratch file is read by explicit ranges: pages of a mapped file would count as memory of the
process.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.errors import TEMPORARY, errors_about
from imgsim_assets.similarity.cosine import Floats, Indices

N = TypeVar("N", bound=np.generic)

# Rows of a scratch file are read with those between them, if these are not many more.
_MAX_READ_PER_ROW = 4
_MAX_READ_BYTES = 8 << 20


class StoredRows(Protocol):
    """Where vectors are."""

    def __len__(self) -> int: ...

    @property
    def dim(self) -> int:
        """The width of a row."""

    def span(self, start: int, stop: int) -> Floats:
        """The rows from `start` to `stop`."""

    def rows(self, numbers: Indices) -> Floats:
        """Some rows."""


class MemoryRows:
    """Rows (n, d) of an array."""

    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dim(self) -> int:
        """As of `StoredRows`."""
        return int(self._vectors.shape[1])

    def span(self, start: int, stop: int) -> Floats:
        """As of `StoredRows`."""
        return self._vectors[start:stop]

    def rows(self, numbers: Indices) -> Floats:
        """As of `StoredRows`."""
        return self._vectors[numbers]


class ScratchRows(Generic[N]):
    """A file of rows in the folder for temporary files, which is deleted with the object."""

    def __init__(self, count: int, dim: int, dtype: type[N]) -> None:
        self._count, self.dim, self._dtype = count, dim, np.dtype(dtype)
        self._row_bytes = dim * self._dtype.itemsize
        self._file, self._path = tempfile.mkstemp(prefix=TEMPORARY, suffix=".vectors")
        # The open file stays readable, and nothing is left behind by a process that is killed.
        Path(self._path).unlink()
        with errors_about(self._path):
            os.truncate(self._file, count * self._row_bytes)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self._count

    def write(self, rows: Indices, vectors: NDArray[N]) -> None:
        """Store some rows (p,), which are (p, d)."""
        if not len(rows):
            return
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        # Runs of neighboring rows are written at once.
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        for run in np.split(np.arange(len(rows)), starts[1:]):
            data = np.ascontiguousarray(vectors[order[run]], dtype=self._dtype)
            with errors_about(self._path):
                _write(self._file, data, int(rows[run[0]]) * self._row_bytes)

    def span(self, start: int, stop: int) -> NDArray[N]:
        """As of `StoredRows`."""
        vectors = np.empty((max(0, stop - start), self.dim), dtype=self._dtype)
        _read(self._file, vectors, start * self._row_bytes)
        return vectors

    def rows(self, numbers: Indices) -> NDArray[N]:
        """As of `StoredRows`."""
        vectors = np.empty((len(numbers), self.dim), dtype=self._dtype)
        order = np.argsort(numbers, kind="stable")
        ordered = numbers[order]
        # Rows that are far apart are read one by one, others together with those between them.
        gaps = np.flatnonzero(np.diff(ordered) > _MAX_READ_PER_ROW) + 1
        size = max(1, _MAX_READ_BYTES // (self._row_bytes * _MAX_READ_PER_ROW))
        cuts = np.union1d(gaps, np.arange(size, len(ordered), size))
        for run in np.split(np.arange(len(ordered)), cuts):
            if len(run):
                first, last = int(ordered[run[0]]), int(ordered[run[-1]])
                vectors[order[run]] = self.span(first, last + 1)[ordered[run] - first]
        return vectors


def _write(file: int, data: NDArray[N], offset: int) -> None:
    view = data.data.cast("B")
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _read(file: int, data: NDArray[N], offset: int) -> None:
    view = data.data.cast("B") if data.size else memoryview(b"")
    while view:
        count = os.preadv(file, [view], offset)
        if not count:
            raise EOFError("a scratch file of vectors has become shorter")
        view, offset = view[count:], offset + count
