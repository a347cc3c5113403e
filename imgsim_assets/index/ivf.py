"""An approximate FAISS index: IndexIVFFlat, of which a search scans the nearest lists only.

For catalogs so large that exact searches take too long. The recall depends on the vectors, so it
is measured on them (`FlatIndex.recall`) and checked.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np

from imgsim_assets.index.flat import FlatIndex
from imgsim_assets.index.vector_file import Floats, Indices

# The minimum of training vectors for each list that FAISS asks for, and how many are used at most.
_MIN_TRAINING = 39
_MAX_TRAINING = 64
# An index is retrained when it has fewer lists than a new one would, by more than this factor.
_RETRAIN_FACTOR = 4


class IvfIndex(FlatIndex):
    """Unit vectors of the images of items, in lists by their nearest centroid."""

    kind = "ivf"
    file_type: ClassVar[Any] = faiss.IndexIVFFlat

    @classmethod
    def _shape(cls, path: Path, count: int) -> None:
        """Unknown: lists are where FAISS finds them."""

    @property
    def nprobe(self) -> int:
        """How many lists a search scans."""
        return int(self._index.nprobe)

    @property
    def needs_retraining(self) -> bool:
        """Whether the number of images has grown enough to train the index again."""
        return list_count(len(self)) > _RETRAIN_FACTOR * int(self._index.nlist)

    @property
    def quantizer(self) -> Any:
        """A FAISS index of the centroids of the lists."""
        return faiss.clone_index(self._index.quantizer)

    def lists_by_number(self) -> Indices:
        """The list of each number, (next_number,); -1 for numbers that are gone."""
        lists = np.full(self.next_number, -1, dtype=np.int64)
        lists[self._numbers()] = np.repeat(np.arange(self._index.nlist), self._list_sizes())
        return lists

    def _list_sizes(self) -> Indices:
        lists: Any = self._index.invlists
        return np.array([lists.list_size(at) for at in range(lists.nlist)], dtype=np.int64)

    def _layout(self) -> Indices:
        # The file ends with the lists: of each the vectors, and then the numbers.
        sizes, width = self._list_sizes(), 4 * self.dim
        begin = self._file.size - (width + 8) * len(self)
        first = np.cumsum(sizes) - sizes
        in_earlier_lists = np.repeat(first, sizes)
        offsets: Indices = begin + width * np.arange(len(self)) + 8 * in_earlier_lists
        return offsets

    def _numbers(self) -> Indices:
        lists: Any = self._index.invlists
        parts = [
            faiss.rev_swig_ptr(lists.get_ids(at), lists.list_size(at)).copy()
            for at in range(lists.nlist)
            if lists.list_size(at)
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])


def list_count(vectors: int) -> int:
    """The lists of a new index of so many vectors: 4 sqrt(n), or as many as they can train."""
    return max(1, min(4 * math.isqrt(vectors), vectors // _MIN_TRAINING))


def training_count(vectors: int) -> int:
    """How many of so many vectors train an index."""
    return min(vectors, _MAX_TRAINING * list_count(vectors))


def trained_quantizer(training: Floats, lists: int) -> Any:
    """A FAISS index of the centroids of lists.

    Args:
        training: (n, dim) float32, at least one.
        lists: how many.
    """
    dim = training.shape[1]
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFFlat(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
    # Unit centroids: a vector is in the list of the centroid of greatest cosine.
    index.cp.spherical = True
    index.cp.seed = 1
    index.train(np.ascontiguousarray(training, dtype=np.float32))
    return quantizer
