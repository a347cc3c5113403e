"""An exact FAISS index of images: IndexIDMap2 over IndexFlatIP, and the table of its entries.

FAISS ids are 64-bit numbers. Every image of an item gets the next number when it is added; numbers
are never reused. A table of number, id, image and sha256 is stored beside the index file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import faiss
import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.catalog.image_key import IMAGE
from imgsim_assets.errors import StoreError

NUMBER = "number"
ENTRIES_SCHEMA = {NUMBER: pl.Int64, "id": pl.String, IMAGE: pl.Int32, "sha256": pl.String}
_KEY = ["id", IMAGE]

Floats = NDArray[np.float32]

# Two neighbors whose similarities differ by less count as equally near.
_RECALL_TOLERANCE = 1e-5


class FlatIndex:
    """Unit vectors of the images of items; searches are exact.

    `entries` has a row (number, id, image, sha256) for each vector, sorted by id and image.
    `next_number` is the number of the next image that is added.
    """

    kind = "flat"
    file_type: ClassVar[Any] = faiss.IndexIDMap2

    def __init__(self, index: Any, entries: pl.DataFrame, next_number: int) -> None:
        self._index = index
        self._positions_by_number: NDArray[np.int64] | None = None
        self.entries = entries
        self.next_number = next_number

    @classmethod
    def empty(cls, dim: int) -> FlatIndex:
        """An index without images, for vectors of width `dim`."""
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
        return cls(index, pl.DataFrame(schema=ENTRIES_SCHEMA), 0)

    @classmethod
    def load(
        cls, path: Path, entries: pl.DataFrame, next_number: int, *, mapped: bool = False
    ) -> Self:
        """Open an index file.

        Args:
            path: the file.
            entries: (number, id, image, sha256) of its vectors.
            next_number: the number of the next image that is added.
            mapped: whether the vectors stay in the file, which is mapped into memory. The index
                must not be changed then.

        Raises:
            StoreError: when the file is not an index of this type, or holds other images
                than the entries.
        """
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
        except RuntimeError as error:
            raise StoreError(f"{path} is not a FAISS index: {error}") from error
        if not isinstance(index, cls.file_type):
            raise StoreError(f"{path} is a {type(index).__name__}, not {cls.file_type.__name__}")
        loaded = cls(index, entries, next_number)
        if not np.array_equal(np.sort(loaded._numbers()), entries[NUMBER].sort().to_numpy()):
            raise StoreError(f"{path} holds other images than its table of entries")
        return loaded

    def save(self, path: Path) -> None:
        """Write the index file (not the entries).

        Raises:
            OSError: when the disk is full, for example.
        """
        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:
            raise OSError(f"FAISS cannot write {path}: {str(error).splitlines()[0]}") from error

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def keep(self, entries: pl.DataFrame) -> None:
        """Keep the vectors of some entries only, as images that may have other places now.

        Args:
            entries: (number, id, image, sha256) with numbers of this index.
        """
        removed = self.entries.join(entries, on=NUMBER, how="anti")[NUMBER].to_numpy()
        if len(removed):
            self._index.remove_ids(removed)
        self.entries = entries.select(list(ENTRIES_SCHEMA)).sort(_KEY)
        self._positions_by_number = None

    def add(self, images: pl.DataFrame, vectors: Floats) -> None:
        """Add images.

        Args:
            images: (id, image, sha256) of n images.
            vectors: (n, dim) float32 unit vectors.

        Raises:
            StoreError: for an image (id, image) that is in the index already, which FAISS would
                accept.
        """
        self.add_parts(images, [(np.arange(images.height), vectors)])

    def add_parts(
        self, images: pl.DataFrame, parts: Iterable[tuple[NDArray[np.int64], Floats]]
    ) -> None:
        """Add images whose vectors come in parts, of which one is held at a time.

        Args:
            images: (id, image, sha256) of n images, which get their numbers in this order.
            parts: row numbers of `images` (p,) and their vectors (p, dim), each row once.

        Raises:
            StoreError: as `add` does.
        """
        keys = images.select(_KEY)
        if keys.is_duplicated().any() or keys.join(self.entries, on=_KEY, how="semi").height:
            raise StoreError("an image is added to the index twice")
        if not images.height:
            return
        self._reserve(images.height)
        numbers = np.arange(self.next_number, self.next_number + images.height, dtype=np.int64)
        for rows, vectors in parts:
            self._index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), numbers[rows])
        self.next_number += images.height
        added = images.select(pl.Series(NUMBER, numbers), *_KEY, "sha256")
        self.entries = pl.concat([self.entries, added]).sort(_KEY)
        self._positions_by_number = None

    def _reserve(self, count: int) -> None:
        """Allocate the memory of more vectors, which would otherwise move while it grows."""
        flat: Any = faiss.downcast_index(self._index.index)
        size = flat.codes.size()
        flat.codes.resize(size + count * flat.code_size)
        flat.codes.resize(size)  # the capacity stays

    def search(self, queries: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
        """The k images of greatest inner product for each query.

        Args:
            queries: (n, dim) float32.
            k: how many.

        Returns:
            Positions in `entries` (n, k) int64, -1 where there are fewer, and inner products
            (n, k) float32.
        """
        if not len(self):
            none = np.full((len(queries), k), -1, dtype=np.int64)
            return none, np.full((len(queries), k), -np.inf, dtype=np.float32)
        similarity, numbers = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return self._positions()[numbers], similarity

    def range_search(
        self, queries: Floats, threshold: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """Every image whose inner product with a query is at least the threshold.

        Args:
            queries: (n, dim) float32.
            threshold: the minimum inner product, inclusive.

        Returns:
            Query numbers, positions in `entries` and inner products of the pairs, sorted by
            query, falling product and position.
        """
        # FAISS returns products greater than the radius.
        radius = float(np.nextafter(np.float32(threshold), np.float32(-2)))
        xq = np.ascontiguousarray(queries, np.float32)
        limits, similarity, numbers = self._index.range_search(xq, radius)
        counts = limits[1:].astype(np.int64) - limits[:-1].astype(np.int64)
        query = np.repeat(np.arange(len(queries)), counts)
        positions = self._positions()[numbers]
        order = np.lexsort((positions, -similarity, query))
        return query[order], positions[order], similarity[order]

    def recall(self, *, k: int = 10, sample: int = 50, seed: int = 0) -> float:
        """The recall@k of searches for the neighbors of sampled images, against exact search.

        An image as near as the k-th neighbor counts as that neighbor.

        Args:
            k: neighbors of each image.
            sample: how many images, at most.
            seed: of the sample.

        Returns:
            The mean recall, from 0 to 1; 1.0 for an index of fewer than two images.
        """
        vectors = self.vectors()
        sampled = np.sort(np.random.default_rng(seed).permutation(len(self))[:sample])
        k = min(k, len(self) - 1)
        if k < 1:
            return 1.0
        queries = vectors[sampled]
        exact = queries @ vectors.T
        exact[np.arange(len(sampled)), sampled] = -np.inf
        kth = -np.partition(-exact, k - 1, axis=1)[:, k - 1]
        positions, similarity = self.search(queries, k + 1)
        correct = (positions >= 0) & (positions != sampled[:, None])
        correct &= similarity >= kth[:, None] - _RECALL_TOLERANCE
        return float(np.minimum(correct.sum(axis=1), k).mean() / k)

    @property
    def needs_retraining(self) -> bool:
        """Whether the index should be rebuilt for its present number of images; never."""
        return False

    def vectors(self) -> Floats:
        """All vectors (n, dim), in the order of `entries`."""
        stored = self._stored()
        row = np.empty(self.next_number, dtype=np.int64)
        row[self._numbers()] = np.arange(len(self))
        ordered: Floats = stored[row[self.entries[NUMBER].to_numpy()]]
        return ordered

    def vectors_at(self, positions: NDArray[np.int64]) -> Floats:
        """The vectors (n, dim) at some positions in `entries`."""
        numbers = self.entries[NUMBER].gather(positions).to_numpy()
        vectors: Floats = self._index.reconstruct_batch(np.ascontiguousarray(numbers))
        return vectors

    def _positions(self) -> NDArray[np.int64]:
        """Positions in `entries` by number; FAISS's -1 for no result stays -1."""
        if self._positions_by_number is None:
            position = np.full(self.next_number + 1, -1, dtype=np.int64)
            position[self.entries[NUMBER].to_numpy()] = np.arange(self.entries.height)
            self._positions_by_number = position
        return self._positions_by_number

    def _stored(self) -> Floats:
        """The vectors in the order of `_numbers`; overwritten when the index changes."""
        flat: Any = faiss.downcast_index(self._index.index)
        stored: Floats = faiss.rev_swig_ptr(flat.get_xb(), len(self) * self.dim)
        return stored.reshape(len(self), self.dim)

    def _numbers(self) -> NDArray[np.int64]:
        numbers: NDArray[np.int64] = faiss.vector_to_array(self._index.id_map)
        return numbers
