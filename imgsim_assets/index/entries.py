"""The entries of an index, a row (number, id, image, sha256) for each vector, and their updates."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from imgsim_assets.catalog.image_key import IMAGE
from imgsim_assets.errors import StoreError

NUMBER = "number"
ENTRIES_SCHEMA = {NUMBER: pl.Int64, "id": pl.String, IMAGE: pl.Int32, "sha256": pl.String}
NO_ENTRIES = pl.DataFrame(schema=ENTRIES_SCHEMA)
IMAGES = ["id", IMAGE, "sha256"]
_KEY = ["id", IMAGE]
_OCCURRENCE = "occurrence"


@dataclass(frozen=True)
class EntriesUpdate:
    """How the entries of an index become those of its present images.

    Attributes:
        kept: the entries whose vectors stay, perhaps under another image number of their item.
        added: the entries whose vectors are added; their numbers follow each other.
        removed: how many entries leave.
        moved: how many of `kept` have another image number.
        next_number: the number of the next image that is added.
    """

    kept: pl.DataFrame
    added: pl.DataFrame
    removed: int
    moved: int
    next_number: int

    @property
    def count(self) -> int:
        """The number of entries afterwards."""
        return self.kept.height + self.added.height

    @property
    def entries(self) -> pl.DataFrame:
        """The entries afterwards, sorted by id and image."""
        if not self.kept.height:
            return self.added
        return pl.concat([self.kept, self.added]).sort(_KEY)


def update_entries(entries: pl.DataFrame, next_number: int, images: pl.DataFrame) -> EntriesUpdate:
    """Make entries those of some images.

    A vector stays where its item still has the image, under whichever number.

    Args:
        entries: (number, id, image, sha256), none for a new index.
        next_number: the number of the next image that is added; numbers are not used again.
        images: (id, image, sha256), sorted by id and image.

    Raises:
        StoreError: when two images have one id and image number.
    """
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
    removed = gone.height - moved.height
    return EntriesUpdate(kept, added, removed, moved.height, next_number + added.height)


def _follows(images: pl.DataFrame) -> pl.Expr:
    """Whether a row has the id and image of the one before it."""
    same = (pl.col(name) == pl.col(name).shift() for name in _KEY)
    return pl.all_horizontal(same).fill_null(value=False)
