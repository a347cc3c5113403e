"""Where the vectors of a catalog's images are read: in the table of an encoder, or in an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.index.entries import IMAGES
from imgsim_assets.index.opening import open_vectors
from imgsim_assets.index.stage import index_table, rebuild_count
from imgsim_assets.index.vector_file import VectorFile
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.vector_blocks import TIMES_FEW, Part
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table


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

    Each process verifies what it reads of the file, once.
    """

    store: Store
    name: str
    version: int

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        """As of `ReadParts`; CorruptFileError when what is read of the file is damaged."""
        return self.file.parts(rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return IndexedVectors, (self.store, self.name, self.version)

    @cached_property
    def file(self) -> VectorFile:
        """The file, open."""
        table = index_table(self.store, self.name)
        return open_vectors(table, table.at(self.version))


@dataclass(frozen=True)
class EmbeddedVectors:
    """The vectors of all embedded images of a catalog, in the order of the images.

    An index of the same images has the same vectors in the same order. Reading all of it takes a
    third of the time; a few vectors are found faster in the table.
    """

    stored: StoredVectors

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        """As of `StoredVectors`."""
        is_few = rows is not None and TIMES_FEW * len(rows) <= len(self.stored.images)
        index = None if is_few else self._index
        return self.stored(rows) if index is None else index.parts(rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return EmbeddedVectors, (self.stored,)

    @cached_property
    def _index(self) -> VectorFile | None:
        """The file of the index, unless it has other vectors or cannot be read."""
        try:
            return self._opened_index()
        except (StoreError, OSError):
            # The next run of the index finds what is wrong with it, too, and the table is intact.
            return None

    def _opened_index(self) -> VectorFile | None:
        store, name = self.stored.store, self.stored.name
        table = index_table(store, name)
        commit = table.latest()
        if commit is None or commit.properties[FINGERPRINT] != self.stored.fingerprint:
            return None
        # Vectors that were recomputed after the index was built may differ in the last digits.
        rebuilds = VectorTable(store, name, self.stored.fingerprint).rebuild_count
        if rebuild_count(commit) != rebuilds or not self._is_of_same_images(table, commit):
            return None
        file = open_vectors(table, commit)
        # All of it now, while the table can take its place.
        file.verify()
        return file

    def _is_of_same_images(self, table: Table, index: Commit) -> bool:
        """Whether the entries of an index are the images, in their order."""
        images, start = self.stored.images, 0
        if index.rows != len(images):
            return False
        for part in table.read_parts(index, columns=IMAGES):
            stop = start + part.height
            if not part.select(IMAGES).equals(images.read(start, stop, IMAGES)):
                return False
            start = stop
        return True
