"""The rows of one side of a join by blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.items import VALUE, Items
from imgsim_assets.similarity.vector_blocks import VectorBlocks


@dataclass(frozen=True)
class JoinSide:
    """The rows of one side of a join.

    Attributes:
        vectors: of the n rows.
        item: (n,) numbers that tell whether two rows are of one item.
        value: what the rows of a pair agree in, with `within`; None where all are compared.
        max_images: the greatest number of rows of an item.
        read_once: whether the rows are needed for one pass of a join only.
    """

    vectors: VectorBlocks
    item: Indices
    value: pl.Series | None
    max_images: int
    read_once: bool = False

    @classmethod
    def of(cls, items: Items) -> JoinSide:
        """All rows of items."""
        value = None
        if VALUE in items.images.columns:
            value = items.images.read(0, len(items), [VALUE])[VALUE]
        return cls(items.blocks, items.numbers, value, items.max_images)

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: Indices) -> JoinSide:
        """Some rows (p,), which are numbered from 0."""
        return self._of(rows, self.vectors.take(rows))

    def select(self, rows: Indices) -> JoinSide:
        """Some rows (p,) as of `take`; a few of many are read without the others."""
        return self._of(rows, self.vectors.select(rows))

    def _of(self, rows: Indices, vectors: VectorBlocks) -> JoinSide:
        value = self.value.gather(rows) if self.value is not None else None
        return JoinSide(vectors, self.item[rows], value, self.max_images)

    def slice(self, start: int, stop: int) -> JoinSide:
        """The rows from `start` to `stop`, or to the last, numbered from 0."""
        value = self.value.slice(start, stop - start) if self.value is not None else None
        vectors = self.vectors.slice(start, stop)
        return JoinSide(vectors, self.item[start:stop], value, self.max_images)

    def batches(self) -> Iterator[tuple[Indices, JoinSide]]:
        """The rows in batches as large as a block, with their numbers (p,), ascending."""
        if self.read_once:
            for rows, vectors in self.vectors.scan():
                yield rows, self._of(rows, VectorBlocks.of(vectors))
            return
        size = self.vectors.block_rows
        if len(self) <= size:
            yield np.arange(len(self)), self
            return
        for start in range(0, len(self), size):
            batch = self.slice(start, start + size)
            yield np.arange(start, start + len(batch)), batch
