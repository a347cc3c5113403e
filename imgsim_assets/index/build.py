"""Writes the file of an index from an earlier file and the vectors of a catalog, in parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.entries import EntriesUpdate
from imgsim_assets.index.flat import FlatIndex
from imgsim_assets.index.ivf import IvfIndex, list_count, trained_quantizer, training_count
from imgsim_assets.index.list_assignment import assigned_lists
from imgsim_assets.index.vector_file import Floats, Indices
from imgsim_assets.index.writer import write_flat, write_ivf
from imgsim_assets.storage.gc import SHA256
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.sorted_rows import sorted_rows


def write_index(
    path: Path,
    index: FlatIndex | None,
    changes: EntriesUpdate,
    vectors: VectorTable,
    nprobe: int | None,
) -> int:
    """Write the file of an updated or a new index.

    A part of the vectors is in memory at a time, and the sample that trains inverted lists.

    Args:
        path: the file.
        index: the earlier index; None for a new one.
        changes: the entries that stay and those that are added.
        vectors: has the vectors of those that are added.
        nprobe: how many inverted lists a search scans; None for an index without lists.

    Returns:
        The width of a vector.

    Raises:
        OSError: when the disk is full, for example.
        StoreError: when vectors are missing or damaged.
    """
    source = _Source(index, changes, vectors)
    if nprobe is None or not changes.count:
        write_flat(path, source.dim, changes.count, source.parts())
        return source.dim
    quantizer, lists = source.inverted_lists()
    numbers = np.sort(np.concatenate([source.kept, source.added]))
    write_ivf(path, quantizer, nprobe, numbers, lists[numbers], source.parts())
    return source.dim


class _Source:
    """The vectors of an index: those that stay in it, and those that are added."""

    def __init__(
        self, index: FlatIndex | None, changes: EntriesUpdate, vectors: VectorTable
    ) -> None:
        self._index, self._vectors, self._changes = index, vectors, changes
        self._added = changes.added
        # The numbers of what is added follow each other.
        self._first = changes.next_number - len(changes.added)

    @property
    def kept(self) -> Indices:
        """The numbers of what stays."""
        return self._changes.kept

    @property
    def added(self) -> Indices:
        """The numbers of what is added."""
        return np.arange(self._first, self._changes.next_number)

    @property
    def dim(self) -> int:
        """The width of a vector; 1 without vectors."""
        return (self._vectors.dim or 1) if self._changes.count else 1

    def parts(self) -> Iterator[tuple[Indices, Floats]]:
        """The numbers and vectors, those that stay first."""
        if self._index is not None:
            yield from self._index.numbered_parts(self.kept)
        yield from self._added_parts()

    def inverted_lists(self) -> tuple[Any, Indices]:
        """The centroids of the lists, and the list of each number."""
        lists = np.full(self._changes.next_number, -1, dtype=np.int64)
        if isinstance(self._index, IvfIndex):
            quantizer = self._index.quantizer
            lists[: self._index.next_number] = self._index.lists_by_number()
        else:
            quantizer = self._trained()
        lists[self._first :] = assigned_lists(self._vectors, quantizer, self._added)
        return quantizer, lists

    def _added_parts(self) -> Iterator[tuple[Indices, Floats]]:
        for rows, vectors in self._vectors.read_rows(self._added):
            yield self._first + rows, vectors

    def _trained(self) -> Any:
        """Centroids that are trained on distinct vectors, the first by their sha256."""
        hashes = (block.select(SHA256) for _, block in self._added.blocks([SHA256]))
        distinct = sorted_rows(hashes, pl.Schema({SHA256: pl.String}), [SHA256])
        sample = RowBlocks.of(distinct.read(0, training_count(len(distinct))))
        training = np.empty((len(sample), self.dim), dtype=np.float32)
        for rows, vectors in self._vectors.read_rows(sample):
            training[rows] = vectors
        return trained_quantizer(training, list_count(len(distinct)))
