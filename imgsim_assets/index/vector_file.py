"""The vectors in the file of an index, which are read in parts by explicit ranges."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.compute.memory import part_bytes
from imgsim_assets.errors import StoreError

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


class VectorFile:
    """Vectors in a file that is open, which may be deleted meanwhile.

    Args:
        file: a descriptor of the file, which is duplicated.
        dim: the width of a vector.
        names: (n,) a number for each vector, in the order of the file.
        offsets: (n,) where each begins, ascending; a range where they follow each other.
    """

    def __init__(self, file: int, dim: int, names: Indices, offsets: Indices | range) -> None:
        self._file = os.dup(file)
        weakref.finalize(self, os.close, self._file)
        self._width, self._dim = 4 * dim, dim
        # Four bytes a vector suffice for most, and a run keeps them.
        is_small = names.max(initial=0) <= np.iinfo(np.uint32).max
        self._names = names.astype(np.uint32) if is_small else names
        self._offsets = offsets

    def parts(self, chosen: Indices | None = None) -> Iterator[tuple[Indices, Floats]]:
        """The vectors of some names, by default of all, a part of a block at once.

        Yields:
            Names (p,), and the vectors (p, dim), in the order of the file.
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
                read_vectors(self._file, vectors, int(offsets[run.start]))
                yield names[run], vectors


def read_vectors(file: int, vectors: Floats, offset: int) -> None:
    """Read vectors (p, dim) that follow each other in a file.

    Raises:
        StoreError: when the file has become shorter.
    """
    if os.preadv(file, [vectors.view(np.uint8).data], offset) != vectors.nbytes:
        raise StoreError("the index file was truncated while it was open")


def contiguous_runs(offsets: Indices, width: int) -> Iterator[slice]:
    """The slices of ascending offsets that follow each other at a distance of `width`."""
    starts = np.flatnonzero(np.diff(offsets, prepend=-2 * width) != width).tolist()
    for start, stop in pairwise([*starts, len(offsets)]):
        yield slice(start, stop)
