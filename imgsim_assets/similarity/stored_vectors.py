"""Where the vectors of a catalog's images are read: in the table of an encoder, or in an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.index.entries import NUMBER
from imgsim_assets.index.stage import index_table, open_index, rebuild_count
from imgsim_assets.index.vector_file import VectorFile
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.vector_blocks import TIMES_FEW, Part
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store


@dataclass(frozen=True)
class StoredVectors:
    """The vectors of images (sha256) in the table of an encoder, read one file at a time."""

    store: Store
    name: str
    fingerprint: str
    images: RowBlocks

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        """As of `ReadParts`; StoreError as of `VectorTable.read_rows`."""
        vectors = VectorTable(self.store, self.name, self.fingerprint)
        if rows is None:
            yield from vectors.read_rows(self.images)
            return
        for found, part in vectors.read_rows(RowBlocks.of(self.images.gather(rows, ["sha256"]))):
            yield rows[found], part


@dataclass(frozen=True)
class IndexedVectors:
    """The vectors of a version of a catalog's index, in the order of its entries.

    The file is verified once by each process.
    """

    store: Store
    name: str
    version: int

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        """As of `ReadParts`; CorruptFileError for a damaged file."""
        return self.file.parts(rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return IndexedVectors, (self.store, self.name, self.version)

    @cached_property
    def file(self) -> VectorFile:
        """The file, open and verified."""
        _, index = open_index(self.store, self.name, version=self.version, columns=[NUMBER])
        return index.vector_file()


@dataclass(frozen=True)
class EmbeddedVectors:
    """The vectors of a version of a catalog's embeddings, in the order of its images.

    An index of this version has the same vectors in the same order. Reading all of it takes a
    third of the time; a few vectors are found faster in the table.
    """

    stored: StoredVectors
    version: int

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        """As of `StoredVectors`."""
        is_few = rows is not None and TIMES_FEW * len(rows) <= len(self.stored.images)
        index = None if is_few else self._index
        return self.stored(rows) if index is None else index.parts(rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return EmbeddedVectors, (self.stored, self.version)

    @cached_property
    def _index(self) -> VectorFile | None:
        """The file of the index, unless it is of another version or damaged."""
        store, name = self.stored.store, self.stored.name
        commit = index_table(store, name).latest()
        if commit is None or commit.inputs["embeddings"] != self.version:
            return None
        # Vectors that were recomputed after the index was built may differ in the last digits.
        rebuilds = VectorTable(store, name, self.stored.fingerprint).rebuild_count
        if rebuild_count(commit) != rebuilds:
            return None
        try:
            return IndexedVectors(store, name, commit.version).file
        except CorruptFileError:
            # The next run of the index finds it, too, and rebuilds it.
            return None
