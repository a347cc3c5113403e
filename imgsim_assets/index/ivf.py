"""An approximate FAISS index: IndexIVFFlat, of which a search scans the nearest lists only.

For catalogs so large that exact searches take too long. The recall depends on the vectors, so it
is measured on them (`FlatIndex.recall`) and checked.
"""

from __future__ import annotations

import math
import threading
from typing import Any, ClassVar

import faiss
import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.index.flat import FlatIndex, Floats

# FAISS's types do not name it.
_DIRECT_MAP: Any = vars(faiss)["DirectMap"]
# The minimum of training vectors for each list that FAISS asks for.
_VECTORS_PER_LIST = 39
# An index is retrained when it has fewer lists than a new one would, by more than this factor.
_RETRAIN_FACTOR = 4


class IvfIndex(FlatIndex):
    """Unit vectors of the images of items, in lists by their nearest centroid."""

    kind = "ivf"
    file_type: ClassVar[Any] = faiss.IndexIVFFlat

    def __init__(self, index: Any, entries: pl.DataFrame, next_number: int) -> None:
        super().__init__(index, entries, next_number)
        self._map_lock = threading.Lock()

    @classmethod
    def trained(cls, vectors: Floats, nprobe: int) -> IvfIndex:
        """An empty index whose centroids are trained on vectors.

        It has 4 sqrt(n) lists, or fewer where n is too small to train as many.

        Args:
            vectors: (n, dim) float32, at least one.
            nprobe: how many of the nearest lists a search scans.
        """
        lists = _lists(len(vectors))
        dim = vectors.shape[1]
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        # Unit centroids: a vector is in the list of the centroid of greatest cosine.
        index.cp.spherical = True
        index.cp.seed = 1
        index.train(np.ascontiguousarray(vectors, dtype=np.float32))
        trained = cls(index, FlatIndex.empty(dim).entries, 0)
        trained.nprobe = nprobe
        return trained

    @property
    def nprobe(self) -> int:
        """How many lists a search scans."""
        return int(self._index.nprobe)

    @nprobe.setter
    def nprobe(self, nprobe: int) -> None:
        self._index.nprobe = min(nprobe, int(self._index.nlist))

    @property
    def needs_retraining(self) -> bool:
        """Whether the number of images has grown enough to train the index again."""
        return _lists(len(self)) > _RETRAIN_FACTOR * int(self._index.nlist)

    def vectors_at(self, positions: NDArray[np.int64]) -> Floats:
        """The vectors (n, dim) at some positions in `entries`."""
        with self._map_lock:
            if self._index.direct_map.type == _DIRECT_MAP.NoMap:
                self._index.set_direct_map_type(_DIRECT_MAP.Hashtable)
        return super().vectors_at(positions)

    def _reserve(self, count: int) -> None:
        """Lists grow one by one."""

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
