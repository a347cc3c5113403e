"""Opening a version of an index: to be searched, or for its vectors alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from imgsim_assets.errors import StoreError
from imgsim_assets.index.entries import ENTRIES_SCHEMA, NUMBER
from imgsim_assets.index.index_file import IndexFile
from imgsim_assets.index.vector_file import VectorFile
from imgsim_assets.storage.commit import Commit, DataFile
from imgsim_assets.storage.table import Table

if TYPE_CHECKING:
    # FAISS is loaded only when an index is searched.
    from imgsim_assets.index.flat import FlatIndex

# Role of the file of an index.
INDEX = "index"
# Its metadata: `index_file.part_checksums`.
PART_CHECKSUMS = "crc32_of_parts"


def open_version(
    table: Table, commit: Commit, columns: Sequence[str] = tuple(ENTRIES_SCHEMA)
) -> FlatIndex:
    """An index to be searched, its file verified, with some columns of its entries.

    Raises:
        StoreError: when the version has no index file.
        CorruptFileError: when a file is damaged.
    """
    from imgsim_assets.index.flat import FlatIndex
    from imgsim_assets.index.ivf import IvfIndex

    kind = IvfIndex if commit.properties.get("kind") == IvfIndex.kind else FlatIndex
    file, entries = _index_file(table, commit), _entries(table, commit, columns)
    # FAISS would load a flipped byte without an error: it gets verified files only.
    with table.local_copy(file) as local:
        return kind.load(local, entries, commit.properties["next_number"])


def open_vectors(table: Table, commit: Commit) -> VectorFile:
    """The vectors of an index, by their positions in its entries.

    Of a flat index, only what is read is verified, if its file has checksums of its parts.

    Raises:
        StoreError: when the version has no index file.
        CorruptFileError: when a file is damaged; perhaps only when the damaged part is read.
    """
    file, properties = _index_file(table, commit), commit.properties
    if PART_CHECKSUMS not in file.metadata or properties["kind"] != "flat":
        return open_version(table, commit, [NUMBER]).vector_file()
    numbers = _entries(table, commit, [NUMBER])[NUMBER].to_numpy()
    with table.local_copy(file, verify=False) as local:
        opened = IndexFile(local, file.metadata[PART_CHECKSUMS], partial(table.damaged, file))
        return VectorFile.of_flat(opened, properties["dim"], numbers, properties["next_number"])


def _index_file(table: Table, commit: Commit) -> DataFile:
    file = commit.file_with_role(INDEX)
    if file is None:
        raise StoreError(f"table {table.name} version {commit.version} lists no index file")
    return file


def _entries(table: Table, commit: Commit, columns: Sequence[str]) -> pl.DataFrame:
    none = pl.DataFrame(schema={name: ENTRIES_SCHEMA[name] for name in columns})
    parts = table.read_parts(commit, columns=columns)
    return pl.concat([none, *(part.select(columns) for part in parts)])
