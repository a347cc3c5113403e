"""The entries of an index, a row (number, id, image, sha256) for each vector, and their updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.catalog.image_key import IMAGE
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.row_blocks import RowBlocks, matched_blocks

NUMBER = "number"
IMAGES_SCHEMA = {"id": pl.String, IMAGE: pl.Int32, "sha256": pl.String}
ENTRIES_SCHEMA = {NUMBER: pl.Int64, **IMAGES_SCHEMA}
NO_ENTRIES = RowBlocks.of(pl.DataFrame(schema=ENTRIES_SCHEMA))
IMAGES = list(IMAGES_SCHEMA)
_KEY = ["id", IMAGE]
_OCCURRENCE = "occurrence"
_IS_ADDED = "is_added"


@dataclass(frozen=True)
class EntriesUpdate:
    """How the entries of an index become those of its present images.

    Attributes:
        entries: those afterwards, sorted by id and image.
        is_kept: (m,) which numbers are those of entries whose vectors stay, perhaps under another
            image number of their item.
        added: number and sha256 of the entries whose vectors are added; their numbers follow each
            other.
        removed: how many entries leave.
        moved: how many of the kept ones have another image number.
        next_number: the number of the next image that is added.
    """

    entries: RowBlocks
    is_kept: NDArray[np.bool_]
    added: RowBlocks
    removed: int
    moved: int
    next_number: int

    @property
    def count(self) -> int:
        """The number of entries afterwards."""
        return len(self.entries)

    @property
    def kept(self) -> NDArray[np.int64]:
        """The numbers of the entries whose vectors stay, (k,) ascending."""
        return np.flatnonzero(self.is_kept)


def update_entries(entries: RowBlocks, next_number: int, images: RowBlocks) -> EntriesUpdate:
    """Make entries those of some images.

    A vector stays where its item still has the image, under whichever number.

    Args:
        entries: (number, id, image, sha256), none for a new index; sorted by id and image.
        next_number: the number of the next image that is added; numbers are not used again.
        images: (id, image, sha256), sorted by id and image.

    Raises:
        StoreError: when two images have one id and image number.
    """
    is_kept = np.zeros(next_number, dtype=bool)
    removed = moved = 0

    def updated() -> Iterator[pl.DataFrame]:
        nonlocal next_number, removed, moved
        for before, now in matched_blocks(entries, images, "id"):
            part = _update_part(before, next_number, now)
            next_number += part.added.height
            removed, moved = removed + part.removed, moved + part.moved
            is_kept[part.kept[NUMBER].to_numpy()] = True
            both = [
                part.kept.with_columns(pl.lit(value=False).alias(_IS_ADDED)),
                part.added.with_columns(pl.lit(value=True).alias(_IS_ADDED)),
            ]
            yield pl.concat(both).sort(_KEY)

    schema = pl.Schema(ENTRIES_SCHEMA)
    rows = RowBlocks.collect(updated(), pl.Schema({**ENTRIES_SCHEMA, _IS_ADDED: pl.Boolean}))
    added = pl.Schema({NUMBER: pl.Int64, "sha256": pl.String})
    return EntriesUpdate(
        rows.map(lambda block: block.drop(_IS_ADDED), schema),
        is_kept,
        rows.map(lambda block: block.filter(_IS_ADDED).select(added.names()), added),
        removed,
        moved,
        next_number,
    )


class _Part(NamedTuple):
    """The update of the entries of some items, see EntriesUpdate."""

    kept: pl.DataFrame
    added: pl.DataFrame
    removed: int
    moved: int


def _update_part(entries: pl.DataFrame, next_number: int, images: pl.DataFrame) -> _Part:
    if images.select(_follows(images).any()).item():
        raise StoreError("an image is added to the index twice")
    moved = entries.clear()
    kept, gone, added = entries, moved, images
    if entries.height:
        kept = entries.join(images, on=IMAGES, how="semi", maintain_order="left")
        added = images.join(kept, on=IMAGES, how="anti", maintain_order="left")
        gone = entries.join(kept, on=NUMBER, how="anti", maintain_order="left")
    if gone.height and added.height:
        # An item may have an image twice, under two URLs.
        occurrence = pl.col(IMAGE).rank("ordinal").over("id", "sha256").alias(_OCCURRENCE)
        moved = (
            gone.with_columns(occurrence)
            .drop(IMAGE)
            .join(added.with_columns(occurrence), on=["id", "sha256", _OCCURRENCE], how="inner")
            .select(list(ENTRIES_SCHEMA))
        )
        kept = pl.concat([kept, moved])
        added = added.join(moved, on=IMAGES, how="anti", maintain_order="left")
    numbers = pl.int_range(next_number, next_number + added.height, dtype=pl.Int64, eager=True)
    added = added.select(numbers.alias(NUMBER), *IMAGES)
    return _Part(kept, added, gone.height - moved.height, moved.height)


def _follows(images: pl.DataFrame) -> pl.Expr:
    """Whether a row has the id and image of the one before it."""
    same = (pl.col(name) == pl.col(name).shift() for name in _KEY)
    return pl.all_horizontal(same).fill_null(value=False)
