"""Vectors that are read in blocks of rows, so that no step holds all of them in memory.

Few vectors stay in memory. More are copied once, file by file, into a scratch file on the local
disk. A few of many, and vectors that are needed only once, are read from their files alone.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import numpy as np

from imgsim_assets.compute.memory import block_bytes, part_bytes, vectors_in_memory
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, pair_cosines
from imgsim_assets.similarity.row_numbers import RowNumbers, compact
from imgsim_assets.similarity.stored_rows import MemoryRows, ScratchRows, StoredRows

# Row numbers (p,) and their vectors (p, d): some rows of many.
Part = tuple[Indices, Floats]

# A block has at most so many rows.
MAX_BLOCK_ROWS = 1 << 16
# Rows are few if all are at least so many times as many, and most if they are such a part of all.
TIMES_FEW = 4
_SHARE_OF_MOST = 3 / 4
# Vectors of pairs whose cosines are computed at once.
_MAX_PAIR_BYTES = 32 << 20


class ReadParts(Protocol):
    """Reads rows where they are stored; it is pickled if another process is to read them."""

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        """All rows, or some (p,), ascending; each once, in parts, in any order."""


class VectorBlocks:
    """Vectors (n, d) float32 by row number.

    Nothing is read before a row is asked for. A pickled object has no vectors: the process that
    unpickles it reads them again.
    """

    def __init__(self, stored: StoredRows, rows: RowNumbers | range | None = None) -> None:
        self._stored = stored
        chosen = range(len(stored)) if rows is None else rows
        self._rows = chosen if isinstance(chosen, range) else compact(chosen)

    @classmethod
    def of(cls, vectors: Floats) -> VectorBlocks:
        """Vectors (n, d) in memory."""
        return cls(MemoryRows(vectors))

    @classmethod
    def from_parts(
        cls, count: int, parts: ReadParts, *, random_access: bool = False
    ) -> VectorBlocks:
        """Vectors that are read when they are needed.

        Args:
            count: n.
            parts: reads all rows, or some.
            random_access: whether reading some rows costs no more than these, however often it is
                done; else the files that have one of them are read.
        """
        return cls(_LazyRows(count, parts, random_access=random_access))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dim(self) -> int:
        """The width of a row; 0 where there are none."""
        return self._stored.dim

    @property
    def block_rows(self) -> int:
        """How many rows a block has, at least 1."""
        return _rows_in(block_bytes(), self.dim)

    def open(self) -> None:
        """Read the vectors now, where they would be read when a row is asked for."""
        if isinstance(self._stored, _LazyRows):
            self._stored.open()

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """All rows in blocks: the number of the first, and the vectors."""
        for start in range(0, len(self), self.block_rows):
            yield start, self.read(start, start + self.block_rows)

    def scan(self) -> Iterator[Part]:
        """All rows in blocks, for a reader that needs them only once.

        Rows that nothing has read yet come in the order of their files, and are not copied to a
        scratch file; without random access, most rows of all.

        Yields:
            The numbers (p,) of rows, ascending within a block, and their vectors.
        """
        unread = self._unread()
        if unread is not None:
            yield from _scanned(unread)
            return
        for start, vectors in self.blocks():
            yield np.arange(start, start + len(vectors)), vectors

    def read(self, start: int, stop: int) -> Floats:
        """The rows from `start` to `stop`, or to the last."""
        rows = self._rows[start:stop]
        if isinstance(rows, range):
            return self._stored.span(rows.start, rows.stop)
        return self._stored.rows(rows.astype(np.int64))

    def rows(self, numbers: Indices) -> Floats:
        """Some rows (p,), in any order."""
        return self._stored.rows(self._stored_numbers(numbers))

    def all(self) -> Floats:
        """All rows at once, for few of them."""
        return self.read(0, len(self))

    def take(self, numbers: Indices) -> VectorBlocks:
        """Some rows (p,) as rows of their own; nothing is read."""
        return VectorBlocks(self._stored, self._stored_numbers(numbers))

    def select(self, numbers: Indices) -> VectorBlocks:
        """Some rows (p,) as of `take`; a few of many are read without the others."""
        chosen = self._stored_numbers(numbers)
        if isinstance(self._stored, _LazyRows):
            distinct, position = np.unique(chosen, return_inverse=True)
            few = self._stored.few(distinct)
            if few is not None:
                return VectorBlocks(few, position)
        return VectorBlocks(self._stored, chosen)

    def slice(self, start: int, stop: int) -> VectorBlocks:
        """The rows from `start` to `stop` as rows of their own; nothing is read."""
        return VectorBlocks(self._stored, self._rows[start:stop])

    def _unread(self) -> Iterator[Part] | None:
        """The rows as they are stored; None where they have been read, or some are repeated."""
        if not isinstance(self._stored, _LazyRows):
            return None
        if isinstance(self._rows, range):
            is_all = len(self._rows) == len(self._stored)
            numbers = np.arange(self._rows.start, self._rows.stop)
            return self._stored.unread(None if is_all else numbers)
        order = np.argsort(self._rows, kind="stable")
        numbers = self._rows[order].astype(np.int64)
        if not (np.diff(numbers) > 0).all():
            return None
        parts = self._stored.unread(numbers)
        return parts and ((order[found], vectors) for found, vectors in parts)

    def _stored_numbers(self, numbers: Indices) -> Indices:
        if isinstance(self._rows, range):
            return numbers + self._rows.start if self._rows.start else numbers
        return self._rows[numbers].astype(np.int64)


def cosines(left: VectorBlocks, right: VectorBlocks, i: Indices, j: Indices) -> Doubles:
    """The float64 cosines (p,) of left rows i (p,) and right rows j, of which only these are read.

    At most 32 MiB of vectors are in memory at once.
    """
    found = np.empty(len(i))
    if not len(i):
        return found
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


class _LazyRows:
    """Rows that are read on the first use, into memory or into a scratch file.

    Args:
        count: how many.
        parts: reads them.
        key: of the rows; another process reads rows of one key once.
        random_access: as of `VectorBlocks.from_parts`.
    """

    def __init__(
        self, count: int, parts: ReadParts, key: str = "", *, random_access: bool = False
    ) -> None:
        self._count, self._parts, self._random_access = count, parts, random_access
        self._key = key or uuid.uuid4().hex
        self._read_alone = 0
        self._lock = threading.Lock()
        self._stored: StoredRows | None = None

    def __len__(self) -> int:
        return self._count

    @property
    def dim(self) -> int:
        if not self._count:
            return 0
        is_alone = self._stored is None and self._random_access
        return self._dim_of_first if is_alone else self.open().dim

    @cached_property
    def _dim_of_first(self) -> int:
        _, vectors = next(self._parts(np.zeros(1, np.int64)))
        return int(vectors.shape[1])

    def span(self, start: int, stop: int) -> Floats:
        return self.open().span(start, stop)

    def rows(self, numbers: Indices) -> Floats:
        if self._are_few(numbers):
            distinct, position = np.unique(numbers, return_inverse=True)
            return _LazyRows(len(distinct), _FewRows(self, distinct)).rows(position)
        return self.open().rows(numbers)

    def _are_few(self, numbers: Indices) -> bool:
        """Whether some rows, and those that were read alone before, are a few of all."""
        if self._stored is not None or not self._random_access or not len(numbers):
            return False
        self._read_alone += len(numbers)
        return TIMES_FEW * self._read_alone <= self._count

    def open(self) -> StoredRows:
        """The rows, which are read unless they have been."""
        with self._lock:
            if self._stored is None:
                self._stored = _filled(self._count, self._parts() if self._count else iter(()))
            return self._stored

    def few(self, numbers: Indices) -> _LazyRows | None:
        """Rows (p,), ascending, which are read alone; None for many, or when all have been read."""
        if self._stored is not None or TIMES_FEW * len(numbers) > self._count:
            return None
        return _LazyRows(len(numbers), _FewRows(self, numbers))

    def unread(self, numbers: Indices | None) -> Iterator[Part] | None:
        """All rows, or some (p,), ascending, numbered from 0, as they are stored.

        None when they have been read, or fit in memory, or when the others are to be read, too.
        """
        if self._stored is not None or not self._count:
            return None
        is_part = numbers is not None and _SHARE_OF_MOST * self._count > len(numbers)
        if is_part and not self._random_access:
            return None
        parts = self._parts() if numbers is None else self._parts(numbers)
        first = next(parts, None)
        if first is None or self._count * first[1].shape[1] * 4 <= vectors_in_memory():
            return None
        every = chain([first], parts)
        if numbers is None:
            return every
        return ((np.searchsorted(numbers, rows), vectors) for rows, vectors in every)

    def parts_of(self, numbers: Indices) -> Iterator[Part]:
        """Some rows (p,), ascending."""
        if self._stored is None:
            yield from self._parts(numbers)
            return
        size = _rows_in(block_bytes(), self.dim)
        for start in range(0, len(numbers), size):
            some = numbers[start : start + size]
            yield some, self._stored.rows(some)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._count, self._parts, self._key, self._random_access)


@dataclass(frozen=True)
class _FewRows:
    """Reads a few (n,) of many rows."""

    every: _LazyRows
    numbers: Indices

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        """As of `ReadParts`."""
        numbers = self.numbers if rows is None else self.numbers[rows]
        for found, vectors in self.every.parts_of(numbers):
            yield np.searchsorted(self.numbers, found), vectors


# The rows that this process has unpickled last; as many as a join has sides.
_recent: OrderedDict[str, _LazyRows] = OrderedDict()
_MAX_RECENT = 2


def _unpickled(count: int, parts: ReadParts, key: str, random_access: bool) -> _LazyRows:
    rows = _recent.pop(key, None) or _LazyRows(count, parts, key, random_access=random_access)
    _recent[key] = rows
    while len(_recent) > _MAX_RECENT:
        _recent.popitem(last=False)
    return rows


def _filled(count: int, parts: Iterator[Part]) -> StoredRows:
    memory: Floats | None = None
    scratch: ScratchRows[np.float32] | None = None
    for rows, vectors in parts:
        if memory is None and scratch is None:
            dim = vectors.shape[1]
            if count * dim * 4 <= vectors_in_memory():
                memory = np.empty((count, dim), dtype=np.float32)
            else:
                scratch = ScratchRows(count, dim, np.float32)
        if memory is not None:
            memory[rows] = vectors
        elif scratch is not None:
            scratch.write(rows, vectors)
        # Freed before the next part is read.
        del vectors
    if scratch is not None:
        return scratch
    return MemoryRows(np.empty((0, 0), dtype=np.float32) if memory is None else memory)


def chosen_parts(parts: Iterator[Part], rows: Indices | None) -> Iterator[Part]:
    """All parts, or what they have of some rows, for `ReadParts` that read all of them anyway."""
    if rows is None:
        return parts
    masks = ((numbers, vectors, np.isin(numbers, rows)) for numbers, vectors in parts)
    return ((numbers[mask], vectors[mask]) for numbers, vectors, mask in masks)


def _scanned(parts: Iterator[Part]) -> Iterator[Part]:
    """Parts as blocks of rows in their order, of which two copies are in memory."""
    waiting: list[Part] = []
    count = 0
    for rows, vectors in parts:
        size = _rows_in(part_bytes(), vectors.shape[1])
        start = 0
        while start < len(rows):
            some = slice(start, start + size - count)
            waiting.append((rows[some], vectors[some]))
            start, count = some.stop, count + len(rows[some])
            if count == size:
                yield _in_order(waiting)
                waiting, count = [], 0
    if count:
        yield _in_order(waiting)


def _in_order(parts: list[Part]) -> Part:
    rows = np.concatenate([rows for rows, _ in parts])
    if len(parts) == 1 and (np.diff(rows) > 0).all():
        return parts[0]
    order = np.argsort(rows, kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    vectors = np.empty((len(rows), parts[0][1].shape[1]), np.float32)
    start = 0
    for of_part, part in parts:
        vectors[position[start : start + len(of_part)]] = part
        start += len(of_part)
    return rows[order], vectors


def _rows_in(size: int, dim: int) -> int:
    """How many rows of `dim` numbers a block of so many bytes has, at least 1."""
    return max(1, min(MAX_BLOCK_ROWS, size // max(1, 4 * dim)))
