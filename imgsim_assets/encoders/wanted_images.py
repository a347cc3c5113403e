"""Images whose vectors a reader wants, to be found in files of keys."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.encoders.sha256_bits import first_and_last_bits, prefix_range
from imgsim_assets.encoders.vector_files import VectorFile
from imgsim_assets.storage.gc import SHA256
from imgsim_assets.storage.row_blocks import RowBlocks


class WantedImages:
    """Images (n,) whose vectors are read, by 128 bits of their sha256.

    Attributes:
        missing: (n,) whose vectors have not been found yet.
    """

    def __init__(self, images: RowBlocks) -> None:
        self.missing = np.ones(len(images), dtype=bool)
        hashes = np.empty(len(images), np.uint64), np.empty(len(images), np.uint64)
        for start, rows in images.blocks([SHA256]):
            for column, of_block in zip(hashes, first_and_last_bits(rows[SHA256]), strict=True):
                column[start : start + rows.height] = of_block
        self._order = np.lexsort(hashes[::-1]).astype(np.uint32)
        self._prefix, self._rest = (column[self._order] for column in hashes)

    def may_be_in(self, file: VectorFile) -> bool:
        """Whether the prefix of a file allows one of the missing images."""
        lowest, highest = prefix_range(file.prefix)
        start = np.searchsorted(self._prefix, lowest, "left")
        stop = np.searchsorted(self._prefix, highest, "right")
        return bool(self.missing[self._order[start:stop]].any())

    def find(self, keys: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which missing images are among some keys: their row numbers, and positions in keys."""
        prefix, rest = first_and_last_bits(keys)
        start, stop = (np.searchsorted(self._prefix, prefix, side) for side in ("left", "right"))
        counts = stop - start
        positions = np.repeat(np.arange(len(keys)), counts)
        at = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
        at += start[positions]
        rows = self._order[at].astype(np.int64)
        found = self.missing[rows] & (self._rest[at] == rest[positions])
        return rows[found], positions[found]

    @property
    def missing_count(self) -> int:
        """How many different images are missing."""
        missing = self.missing[self._order]
        pairs = np.stack([self._prefix[missing], self._rest[missing]], axis=1)
        return len(np.unique(pairs, axis=0))
