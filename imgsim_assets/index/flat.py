"""An exact FAISS index with string ids: IndexIDMap2 over IndexFlatIP, and its id table.

FAISS knows 64-bit numbers only. Every item gets one when it is added, counting up and never
used again, and a table of number, id and sha256 is stored beside the index file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import faiss
import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.errors import StoreError

NUMBER = "number"
ENTRIES_SCHEMA = {NUMBER: pl.Int64, "id": pl.String, "sha256": pl.String}

Floats = NDArray[np.float32]


class FlatIndex:
    """Unit vectors under string ids; searches are exact.

    `entries` has one row (number, id, sha256) an item, sorted by id. `next_number` is the
    number the next added item gets.
    """

    kind = "flat"
    file_type: ClassVar[Any] = faiss.IndexIDMap2

    def __init__(self, index: Any, entries: pl.DataFrame, next_number: int) -> None:
        self._index = index
        self.entries = entries
        self.next_number = next_number

    @classmethod
    def empty(cls, dim: int) -> FlatIndex:
        """An index without items, for vectors of `dim` numbers."""
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
        return cls(index, pl.DataFrame(schema=ENTRIES_SCHEMA), 0)

    @classmethod
    def load(cls, path: Path, entries: pl.DataFrame, next_number: int) -> Self:
        """Open an index file; StoreError when it does not belong to the entries."""
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise StoreError(f"{path} is no FAISS index: {error}") from error
        if not isinstance(index, cls.file_type):
            raise StoreError(f"{path} is a {type(index).__name__}, no {cls.file_type.__name__}")
        loaded = cls(index, entries, next_number)
        if sorted(loaded._numbers().tolist()) != entries[NUMBER].sort().to_list():
            raise StoreError(f"{path} holds other items than its table of ids")
        return loaded

    def save(self, path: Path) -> None:
        """Write the index file (not the entries)."""
        faiss.write_index(self._index, str(path))

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def remove(self, ids: pl.Series) -> None:
        """Take items out; ids that are not there are passed over."""
        gone = pl.col("id").is_in(ids.implode())
        numbers = self.entries.filter(gone)[NUMBER].to_numpy()
        if len(numbers):
            self._index.remove_ids(numbers)
        self.entries = self.entries.filter(~gone)

    def add(self, ids: pl.Series, sha256: pl.Series, vectors: Floats) -> None:
        """Put items in: (n,) ids that are not there yet, and (n, dim) unit vectors.

        Raises StoreError for an id that is there, which FAISS itself would accept.
        """
        if ids.is_in(self.entries["id"].implode()).any() or ids.n_unique() != len(ids):
            raise StoreError("an id is added to the index twice")
        if not len(ids):
            return
        numbers = np.arange(self.next_number, self.next_number + len(ids), dtype=np.int64)
        self._index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), numbers)
        self.next_number += len(ids)
        added = pl.DataFrame({NUMBER: numbers, "id": ids, "sha256": sha256}, schema=ENTRIES_SCHEMA)
        self.entries = pl.concat([self.entries, added]).sort("id")

    def search(self, queries: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
        """Positions in `entries` (n, k), -1 where fewer exist, and inner products (n, k)."""
        if not len(self):
            nothing = np.full((len(queries), k), -1, dtype=np.int64)
            return nothing, np.full((len(queries), k), -np.inf, dtype=np.float32)
        similarity, numbers = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return self._positions()[numbers], similarity

    def range(
        self, queries: Floats, threshold: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
        """Every item whose inner product with a query is at least the threshold.

        Returns query numbers, positions in `entries` and inner products of as many pairs, by
        query, falling product and position.
        """
        # FAISS takes what is greater than the radius.
        radius = float(np.nextafter(np.float32(threshold), np.float32(-2)))
        plain = np.ascontiguousarray(queries, np.float32)
        limits, similarity, numbers = self._index.range_search(plain, radius)
        counts = limits[1:].astype(np.int64) - limits[:-1].astype(np.int64)
        asked = np.repeat(np.arange(len(queries)), counts)
        positions = self._positions()[numbers]
        order = np.lexsort((positions, -similarity, asked))
        return asked[order], positions[order], similarity[order]

    def vectors(self) -> Floats:
        """All vectors (n, dim), in the order of `entries`."""
        stored = self._stored()
        row = np.empty(self.next_number, dtype=np.int64)
        row[self._numbers()] = np.arange(len(self))
        ordered: Floats = stored[row[self.entries[NUMBER].to_numpy()]]
        return ordered

    def _positions(self) -> NDArray[np.int64]:
        """Positions in `entries` by number, and -1 for FAISS's -1, which means nothing found."""
        position = np.full(self.next_number + 1, -1, dtype=np.int64)
        position[self.entries[NUMBER].to_numpy()] = np.arange(self.entries.height)
        return position

    def _stored(self) -> Floats:
        """The vectors in the order of `_numbers`; overwritten when the index changes."""
        flat: Any = faiss.downcast_index(self._index.index)
        stored: Floats = faiss.rev_swig_ptr(flat.get_xb(), len(self) * self.dim)
        return stored.reshape(len(self), self.dim)

    @property
    def outgrown(self) -> bool:
        """Whether it should be made anew for as many items as there are; never."""
        return False

    def _numbers(self) -> NDArray[np.int64]:
        numbers: NDArray[np.int64] = faiss.vector_to_array(self._index.id_map)
        return numbers
