"""Items with several images as one row per image."""

from __future__ import annotations

import polars as pl

# The further images of an item, in their order; `url` is its first one.
OTHER_URLS = "other_urls"


def image_rows(items: pl.DataFrame) -> pl.DataFrame:
    """One row per image of the items.

    Args:
        items: rows of `<name>/items` with id and url, and with other_urls if the source can give
            several images per item.

    Returns:
        id, image (Int32, numbered from 0 within an item) and url, in the order of the items and
        of their images.
    """
    first = items.select("id", pl.lit(0, pl.Int32).alias("image"), "url")
    if OTHER_URLS not in items.columns:
        return first
    urls = pl.concat_list(pl.col("url"), pl.col(OTHER_URLS))
    return (
        items.select("id", pl.int_ranges(0, urls.list.len(), dtype=pl.Int32).alias("image"), urls)
        .explode("image", "url")
        .select("id", "image", "url")
    )
