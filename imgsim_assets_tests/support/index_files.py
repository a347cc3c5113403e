"""Index files of given vectors, written as the stage writes them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.build import write_index
from imgsim_assets.index.entries import IMAGES, NO_ENTRIES, update_entries
from imgsim_assets.index.flat import FlatIndex
from imgsim_assets.index.ivf import IvfIndex
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.vectors import Floats

# The row of a vector, by id and image.
Content = Mapping[tuple[str, int], int]
_SCHEMA = {"id": pl.String, "image": pl.Int32, "sha256": pl.String}


def sha256_of(row: int) -> str:
    """The sha256 of the image that has a row as its vector."""
    return hashlib.sha256(str(row).encode()).hexdigest()


def images_of(content: Content) -> pl.DataFrame:
    """The images (id, image, sha256) of a content, sorted."""
    rows = [(item, image, sha256_of(row)) for (item, image), row in content.items()]
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row").sort("id", "image")


def vector_table(folder: Path, rows: Floats) -> VectorTable:
    """A table of the rows, in files of a few hundred."""
    table = VectorTable(Store.open(folder), "shop", "f" * 16)
    keys = [sha256_of(row) for row in range(len(rows))]
    for start in range(0, len(rows), 300):
        part = rows[start : start + 300]
        norms = np.ones(len(part), np.float32)
        table.append(VectorRows(keys[start : start + 300], part, norms))
    return table


def updated(
    index: FlatIndex | None, vectors: VectorTable, content: Content, nprobe: int | None = None
) -> FlatIndex:
    """The index of a content, written from an earlier one; its file is gone."""
    entries = RowBlocks.of(index.entries) if index is not None else NO_ENTRIES
    next_number = index.next_number if index is not None else 0
    changes = update_entries(entries, next_number, RowBlocks.of(images_of(content).select(IMAGES)))
    kind = IvfIndex if nprobe is not None and content else FlatIndex
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.faiss"
        write_index(path, index, changes, vectors, nprobe)
        return kind.load(path, changes.entries.all(), changes.next_number)
