"""The rows of one side of a join by blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    """

    vectors: VectorBlocks
    item: Indices
    value: pl.Series | None
    max_images: int

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
        value = self.value.gather(rows) if self.value is not None else None
        return JoinSide(self.vectors.take(rows), self.item[rows], value, self.max_images)

    def slice(self, start: int, stop: int) -> JoinSide:
        """The rows from `start` to `stop`, or to the last, numbered from 0."""
        value = self.value.slice(start, stop - start) if self.value is not None else None
        vectors = self.vectors.slice(start, stop)
        return JoinSide(vectors, self.item[start:stop], value, self.max_images)

    def batches(self) -> Iterator[tuple[int, JoinSide]]:
        """The rows in batches as large as a block, each with the number of its first row."""
        size = self.vectors.block_rows
        if len(self) <= size:
            yield 0, self
            return
        for start in range(0, len(self), size):
            yield start, self.slice(start, start + size)
