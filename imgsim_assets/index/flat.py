"""An exact FAISS index of images: IndexIDMap2 over IndexFlatIP, and the table of its entries.

FAISS ids are 64-bit numbers. Every image of an item gets the next number when it is added; numbers
are never reused. A table of number, id, image and sha256 is stored beside the index file.

The file is mapped into memory for searches. Vectors are read from it in parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import faiss
import numpy as np
import polars as pl

from imgsim_assets.errors import StoreError
from imgsim_assets.index.entries import NUMBER
from imgsim_assets.index.index_file import IndexFile
from imgsim_assets.index.vector_file import (
    Floats,
    Indices,
    VectorFile,
    are_same,
    flat_numbers,
    flat_offsets,
)
from imgsim_assets.index.writer import flat_head

# Two neighbors whose similarities differ by less count as equally near.
_RECALL_TOLERANCE = 1e-5


class _Shape(NamedTuple):
    """The width and the number of the vectors in a file, named as FAISS names them."""

    d: int
    ntotal: int


class FlatIndex:
    """Unit vectors of the images of items; searches are exact.

    `entries` has a row (number, id, image, sha256) for each vector, sorted by id and image.
    `next_number` is the number of the next image that is added.
    """

    kind = "flat"
    file_type: ClassVar[Any] = faiss.IndexIDMap2

    def __init__(self, index: Any, path: Path, entries: pl.DataFrame, next_number: int) -> None:
        self._index, self._file = index, IndexFile(path)
        self.entries = entries
        self.next_number = next_number

    @classmethod
    def load(cls, path: Path, entries: pl.DataFrame, next_number: int) -> Self:
        """Open an index file, which may be deleted while it is open.

        Args:
            path: the file, whose checksum was verified: FAISS would read behind the end of a
                truncated one.
            entries: (number, id, image, sha256) of its vectors; number alone, if nothing is
                searched. Then FAISS need not read the file, with 50 bytes for each vector.
            next_number: the number of the next image that is added.

        Raises:
            StoreError: when the file is not an index of this type, or holds other images
                than the entries.
        """
        is_searched = entries.columns != [NUMBER]
        shape = None if is_searched else cls._shape(path, entries.height)
        loaded = cls(shape or cls._read(path), path, entries, next_number)
        if not are_same(loaded._numbers(), entries[NUMBER].to_numpy(), next_number):
            raise StoreError(f"{path} holds other images than its table of entries")
        return loaded

    @classmethod
    def _read(cls, path: Path) -> Any:
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise StoreError(f"{path} is not a FAISS index: {error}") from error
        if not isinstance(index, cls.file_type):
            raise StoreError(f"{path} is a {type(index).__name__}, not {cls.file_type.__name__}")
        return index

    @classmethod
    def _shape(cls, path: Path, count: int) -> _Shape | None:
        """That of a file as `write_flat` writes it; None of any other file."""
        with open(path, "rb") as file:
            head = file.read(len(flat_head(1, 0)))
        # Behind the vectors are the count of the numbers and the numbers.
        dim, rest = divmod(path.stat().st_size - len(head) - 8 * (count + 1), 4 * max(1, count))
        if not count or dim < 1 or rest or head != flat_head(dim, count):
            return None
        return _Shape(dim, count)

    @property
    def dim(self) -> int:
        """The width of a vector."""
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(self, queries: Floats, k: int) -> tuple[Indices, Floats]:
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
        return self._positions[numbers], similarity

    def range_search(self, queries: Floats, threshold: float) -> tuple[Indices, Indices, Floats]:
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
        positions = self._positions[numbers]
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
        sampled = np.sort(np.random.default_rng(seed).permutation(len(self))[:sample])
        k = min(k, len(self) - 1)
        if k < 1:
            return 1.0
        queries = self.vectors_at(sampled)
        greatest = np.full((len(sampled), k), -np.inf, dtype=np.float32)
        for part, vectors in self.parts():
            products = queries @ vectors.T
            products[sampled[:, None] == part] = -np.inf
            both = np.concatenate([greatest, products], axis=1)
            greatest = -np.partition(-both, k - 1, axis=1)[:, :k]
        positions, similarity = self.search(queries, k + 1)
        correct = (positions >= 0) & (positions != sampled[:, None])
        correct &= similarity >= greatest.min(axis=1)[:, None] - _RECALL_TOLERANCE
        return float(np.minimum(correct.sum(axis=1), k).mean() / k)

    @property
    def needs_retraining(self) -> bool:
        """Whether the index should be rebuilt for its present number of images; never."""
        return False

    def vectors(self) -> Floats:
        """All vectors (n, dim), in the order of `entries`."""
        vectors = np.empty((len(self), self.dim), dtype=np.float32)
        for positions, part in self.parts():
            vectors[positions] = part
        return vectors

    def parts(self) -> Iterator[tuple[Indices, Floats]]:
        """All vectors, a part of a block at once, in the order of the file.

        Yields:
            Positions in `entries` (p,) and the vectors (p, dim).
        """
        return self.vector_file().parts()

    def numbered_parts(self, chosen: Indices) -> Iterator[tuple[Indices, Floats]]:
        """The vectors of some numbers, as `parts` but with their numbers."""
        return VectorFile(self._file, self.dim, self._numbers(), self._layout()).parts(chosen)

    def vector_file(self) -> VectorFile:
        """The vectors by their positions in `entries`, in a file that stays open on its own."""
        return VectorFile(self._file, self.dim, self._positions[self._numbers()], self._layout())

    def vectors_at(self, positions: Indices) -> Floats:
        """The vectors (n, dim) at some positions in `entries`."""
        vectors = np.empty((len(positions), self.dim), dtype=np.float32)
        for row, offset in enumerate(self._offsets[positions].tolist()):
            self._file.read(vectors[row : row + 1], offset)
        return vectors

    @cached_property
    def _positions(self) -> Indices:
        """Positions in `entries` by number; FAISS's -1 for no result stays -1."""
        positions = np.full(self.next_number + 1, -1, dtype=np.int64)
        positions[self.entries[NUMBER].to_numpy()] = np.arange(self.entries.height)
        return positions

    @cached_property
    def _offsets(self) -> Indices:
        """Where the file has each vector, by position in `entries`."""
        offsets = np.empty(len(self), dtype=np.int64)
        offsets[self._positions[self._numbers()]] = self._layout()
        return offsets

    def _layout(self) -> Indices | range:
        """Where the file has each vector, (n,), in its order."""
        return flat_offsets(self._file, self.dim, len(self))

    def _numbers(self) -> Indices:
        """The number of each vector, (n,), in the order of the file."""
        return flat_numbers(self._file, len(self))
