"""The images that neighbor lists name: read once for the lists of many rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import polars as pl

from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.vector_blocks import VectorBlocks


class ListedImages:
    """Rows of items of which some are listed.

    Nothing is read before an image is asked for. Then the images of all listed rows are, as those
    of a few lists lie in all blocks of the ids and hashes of a large catalog.
    """

    def __init__(self, items: Items, row_ids: Sequence[pl.Series]) -> None:
        """Of all rows, and the ids (as of `Items.row_blocks`) of the listed ones."""
        self._items = items
        self._row_ids = row_ids

    @property
    def max_images(self) -> int:
        """As of all items."""
        return self._items.max_images

    @property
    def is_turned(self) -> bool:
        """As of all items."""
        return self._items.is_turned

    @property
    def blocks(self) -> VectorBlocks:
        """The vectors of all rows."""
        return self._items.blocks

    def images_of(self, row_ids: pl.Series) -> pl.DataFrame:
        """As of `Items`, for listed rows."""
        at = self._listed["row_id"].search_sorted(row_ids.unique().sort())
        return self._listed.select(pl.all().gather(at))

    def spans(self, ids: pl.Series) -> tuple[Indices, Indices]:
        """As of `Items`, for items that have a listed row."""
        rows = self._listed["row"].gather(self._listed["id"].search_sorted(ids)).to_numpy()
        return self._items.spans_of(self._items.numbers[rows])

    @cached_property
    def _listed(self) -> pl.DataFrame:
        return self._items.images_of(pl.concat(self._row_ids))


def row_of_each(items: Items | ListedImages, row_ids: pl.Series) -> Indices:
    """The number of each row (p,) of some ids (as of `Items.row_blocks`), in any order."""
    found = items.images_of(row_ids)
    numbers: Indices = found["row"].gather(found["row_id"].search_sorted(row_ids)).to_numpy()
    return numbers
