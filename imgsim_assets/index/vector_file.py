"""The vectors in the file of an index, which are read in parts by explicit ranges."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.compute.memory import part_bytes
from imgsim_assets.errors import StoreError
from imgsim_assets.index.index_file import IndexFile

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class VectorFile:
    """Vectors in a file that is open, which may be deleted meanwhile.

    Args:
        file: the file.
        dim: the width of a vector.
        names: (n,) a number for each vector, in the order of the file.
        offsets: (n,) where each begins, ascending; a range where they follow each other.
    """

    def __init__(self, file: IndexFile, dim: int, names: Indices, offsets: Indices | range) -> None:
        self._file, self._width, self._dim = file, 4 * dim, dim
        # Four bytes a vector suffice for most, and a run keeps them.
        is_small = names.max(initial=0) <= np.iinfo(np.uint32).max
        self._names = names.astype(np.uint32) if is_small else names
        self._offsets = offsets

    @classmethod
    def of_flat(cls, file: IndexFile, dim: int, entries: Indices, next_number: int) -> Self:
        """The vectors of a flat index, by the positions of their entries.

        Args:
            file: the file.
            dim: the width of a vector.
            entries: (n,) the numbers of the entries.
            next_number: a number above all of them.

        Raises:
            StoreError: when the file has other numbers.
            CorruptFileError: when the numbers in the file do not match their checksum.
        """
        numbers = flat_numbers(file, len(entries))
        if not are_same(numbers, entries, next_number):
            raise StoreError("an index file holds other images than its table of entries")
        positions = np.full(next_number, -1, dtype=np.int64)
        positions[entries] = np.arange(len(entries))
        return cls(file, dim, positions[numbers], flat_offsets(file, dim, len(entries)))

    def verify(self) -> None:
        """Verify the whole file; CorruptFileError when it is damaged."""
        self._file.verify()

    def parts(self, chosen: Indices | None = None) -> Iterator[tuple[Indices, Floats]]:
        """The vectors of some names, by default of all, a part of a block at once.

        Yields:
            Names (p,), and the vectors (p, dim), in the order of the file.

        Raises:
            CorruptFileError: when a part of the file that is read is damaged.
        """
        is_chosen = None
        if chosen is not None:
            is_chosen = np.zeros(int(self._names.max(initial=0)) + 1, dtype=bool)
            is_chosen[chosen] = True
        size = max(1, part_bytes() // self._width)
        for first in range(0, len(self._names), size):
            names = self._names[first : first + size].astype(np.int64)
            offsets = self._offsets[first : first + size]
            if isinstance(offsets, range):
                offsets = np.arange(offsets.start, offsets.stop, offsets.step)
            if is_chosen is not None:
                rows = is_chosen[names]
                names, offsets = names[rows], offsets[rows]
            for run in contiguous_runs(offsets, self._width):
                vectors = np.empty((run.stop - run.start, self._dim), dtype=np.float32)
                self._file.read(vectors, int(offsets[run.start]))
                yield names[run], vectors


def flat_numbers(file: IndexFile, count: int) -> Indices:
    """The number of each vector of a flat index, (n,), in the order of the file, which ends so."""
    numbers = np.empty(count, "<i8")
    file.read(numbers, file.size - numbers.nbytes)
    return numbers


def flat_offsets(file: IndexFile, dim: int, count: int) -> range:
    """Where the file of a flat index has each vector, in its order."""
    # The file ends with the vectors, the count of the numbers and the numbers.
    end = file.size - 8 * (count + 1)
    return range(end - 4 * dim * count, end, 4 * dim)


def are_same(numbers: Indices, others: Indices, after: int) -> bool:
    """Whether numbers below `after`, each once, are the same ones in another order."""
    if len(numbers) != len(others) or numbers.max(initial=-1) >= after:
        return False
    is_number = np.zeros(after, dtype=bool)
    is_number[numbers] = True
    return int(is_number.sum()) == len(numbers) and bool(is_number[others].all())


def contiguous_runs(offsets: Indices, width: int) -> Iterator[slice]:
    """The slices of ascending offsets that follow each other at a distance of `width`."""
    starts = np.flatnonzero(np.diff(offsets, prepend=-2 * width) != width).tolist()
    for start, stop in pairwise([*starts, len(offsets)]):
        yield slice(start, stop)
