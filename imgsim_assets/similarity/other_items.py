"""The nearest different items of every item of a catalog, in scratch files: 128 bytes an item."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.row_numbers import RowNumbers
from imgsim_assets.similarity.stored_rows import ScratchRows

# Others of each item: enough that a resample of the catalog nearly always has one of them.
DEPTH = 8
# Items whose others are read at once.
_BLOCK_ITEMS = 1 << 16


class RankedOthers(NamedTuple):
    """Others of some items (p,), the most similar first.

    `similarity` (p, DEPTH) has their cosines, -inf where there are fewer, and `other` (p, DEPTH)
    their clusters, -1 where there are fewer.
    """

    similarity: Doubles
    other: Indices

    @classmethod
    def none(cls, items: int) -> RankedOthers:
        """So many items without others."""
        shape = (items, DEPTH)
        return cls(np.full(shape, -np.inf), np.full(shape, -1, dtype=np.int64))


class NearestOthers:
    """The nearest different items of n items.

    Attributes:
        cluster: (n,) numbers of groups of items that share their first vector.
    """

    def __init__(self, cluster: RowNumbers) -> None:
        """Of items in these clusters; the others of all of them are to be written."""
        self.cluster = cluster
        self._similarity = ScratchRows(len(cluster), DEPTH, np.float64)
        self._other = ScratchRows(len(cluster), DEPTH, np.int64)

    def __len__(self) -> int:
        return len(self.cluster)

    def write(self, items: Indices, others: RankedOthers) -> None:
        """Store the others of some items (p,)."""
        self._similarity.write(items, others.similarity)
        self._other.write(items, others.other)

    def blocks(self) -> Iterator[tuple[slice, RankedOthers]]:
        """The others of all items, some of them at a time."""
        for start in range(0, len(self), _BLOCK_ITEMS):
            part = slice(start, min(start + _BLOCK_ITEMS, len(self)))
            yield part, self._read(part)

    def all(self) -> RankedOthers:
        """All at once, for few items."""
        return self._read(slice(0, len(self)))

    @property
    def best(self) -> Doubles:
        """The greatest cosine of each item, (n,); -inf for those without others."""
        best = np.empty(len(self))
        for part, others in self.blocks():
            best[part] = others.similarity[:, 0]
        return best

    @property
    def clusters(self) -> int:
        """The number of different clusters."""
        return len(np.unique(self.cluster))

    def _read(self, part: slice) -> RankedOthers:
        span = part.start, part.stop
        return RankedOthers(self._similarity.span(*span), self._other.span(*span))
