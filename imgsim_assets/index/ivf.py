"""An approximate FAISS index: IndexIVFFlat, of which a search looks at the nearest lists only.

For catalogs so large that exact searches take too long. How much a search misses depends on
the vectors, so it is measured on them (`recall`) and checked.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from imgsim_assets.index.flat import FlatIndex, Floats

# FAISS asks for so many training vectors a list, and takes no more than 256 of each.
_VECTORS_PER_LIST = 39
# A list count that has become too small by this factor is a reason to train anew.
_OUTGROWN = 4


class IvfIndex(FlatIndex):
    """Unit vectors under string ids, in lists by their nearest center."""

    kind = "ivf"
    file_type: ClassVar[Any] = faiss.IndexIVFFlat

    @classmethod
    def trained(cls, vectors: Floats, nprobe: int) -> IvfIndex:
        """An empty index whose centers are those of the vectors (n, dim), at least one.

        A search looks at the `nprobe` nearest of 4 sqrt(n) lists, as far as n allows as many.
        """
        lists = _lists(len(vectors))
        dim = vectors.shape[1]
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        # Unit centers: the list of a vector is that of the center of greatest cosine.
        index.cp.spherical = True
        index.cp.seed = 1
        index.train(np.ascontiguousarray(vectors, dtype=np.float32))
        made = cls(index, FlatIndex.empty(dim).entries, 0)
        made.nprobe = nprobe
        return made

    @property
    def nprobe(self) -> int:
        """How many lists a search looks at."""
        return int(self._index.nprobe)

    @nprobe.setter
    def nprobe(self, nprobe: int) -> None:
        self._index.nprobe = min(nprobe, int(self._index.nlist))

    @property
    def outgrown(self) -> bool:
        """Whether the items have become so many that lists should be made anew."""
        return _lists(len(self)) > _OUTGROWN * int(self._index.nlist)

    def _numbers(self) -> NDArray[np.int64]:
        lists: Any = self._index.invlists
        parts = [
            faiss.rev_swig_ptr(lists.get_ids(at), lists.list_size(at)).copy()
            for at in range(lists.nlist)
            if lists.list_size(at)
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _stored(self) -> Floats:
        lists: Any = self._index.invlists
        parts = [
            faiss.rev_swig_ptr(lists.get_codes(at), lists.list_size(at) * lists.code_size)
            .view(np.float32)
            .reshape(-1, self.dim)
            .copy()
            for at in range(lists.nlist)
            if lists.list_size(at)
        ]
        return np.concatenate([np.empty((0, self.dim), np.float32), *parts])


def _lists(count: int) -> int:
    return max(1, min(4 * math.isqrt(count), count // _VECTORS_PER_LIST))
