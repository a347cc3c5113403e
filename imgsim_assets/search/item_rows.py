"""Which item each row of a model or a query is an image of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Indices


@dataclass(frozen=True)
class ItemRows:
    """Rows of images, sorted by item and the number of the image.

    Attributes:
        item: (n,) int64, the position of the row's item.
        image: (n,) int32, the number of the image within the item, from 0.
    """

    item: Indices
    image: NDArray[np.int32]

    @classmethod
    def single(cls, count: int) -> ItemRows:
        """One image of each of `count` items."""
        return cls(np.arange(count), np.zeros(count, np.int32))

    @classmethod
    def of_counts(cls, counts: Sequence[int]) -> ItemRows:
        """Some number of images of each item, at least one."""
        sizes = np.asarray(counts, np.int64)
        starts = np.cumsum(sizes) - sizes
        item = np.repeat(np.arange(len(sizes)), sizes)
        return cls(item, (np.arange(len(item)) - starts[item]).astype(np.int32))

    def __len__(self) -> int:
        return len(self.item)

    @cached_property
    def has_numbers(self) -> bool:
        """Whether the numbers tell anything: not every row is image 0 of its item."""
        return bool(self.image.any())

    @cached_property
    def max_images(self) -> int:
        """The largest number of images of an item."""
        return int(np.bincount(self.item).max(initial=0))

    @cached_property
    def firsts(self) -> Indices:
        """The first row of each item."""
        return np.flatnonzero(np.diff(self.item, prepend=-1))

    def take(self, rows: Indices) -> ItemRows:
        """The rows at some ascending positions."""
        return ItemRows(self.item[rows], self.image[rows])

    def append(self, other: ItemRows, items: int) -> ItemRows:
        """These rows of `items` items, followed by the rows of other items."""
        return ItemRows(
            np.concatenate([self.item, other.item + items]),
            np.concatenate([self.image, other.image]),
        )

    def compacted(self) -> tuple[Indices, ItemRows]:
        """The items that have a row, and the rows with the positions of items among these."""
        items, item = np.unique(self.item, return_inverse=True)
        return items, ItemRows(item.astype(np.int64), self.image)
