"""The column `image`: which of its item's images, numbered from 0, a row is about."""

from __future__ import annotations

import polars as pl

IMAGE = "image"
# Ids hold no control characters, so that keys are in the order of id, then image.
_SEPARATOR = "\x00"


def image_key() -> pl.Expr:
    """A string for each (id, image): the id itself for image 0."""
    number = pl.col(IMAGE).cast(pl.String).str.zfill(3)
    return (
        pl.when(pl.col(IMAGE) == 0)
        .then(pl.col("id"))
        .otherwise(pl.concat_str(pl.col("id"), pl.lit(_SEPARATOR), number))
        .alias("id")
    )


def describe_image(item: str, image: int) -> str:
    """An image of an item, as messages name it."""
    return f"item {item!r}, image {image}" if image else f"item {item!r}"
