"""The images of items that may have several: their usable URLs, and the others with a reason."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from imgsim_assets.catalog.columns import as_text, quoted
from imgsim_assets.catalog.embedded import KeepImage
from imgsim_assets.catalog.image_cells import find_separator, image_lists, several
from imgsim_assets.catalog.image_rows import OTHER_URLS
from imgsim_assets.catalog.raw_rows import DETAIL, REASON
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.url_checks import DETAILS, check_urls, trim_urls

ROW = "__row"
# Why an item may be rejected for its images.
IMAGE_REASONS = ("several_urls", "empty_url", "unsupported_scheme", "bad_url")
_COLUMN = "__column"
SURPLUS = "__surplus"
_SEVERAL = (
    "several URLs in one cell, or a list that cannot be read; 'separator:' says what is between "
    "the URLs of a cell"
)


@dataclass(frozen=True)
class ItemImages:
    """The images of every row of a source.

    Attributes:
        rows: url, other_urls, REASON and DETAIL of each row, in their order. Without a usable
            image, url is the first of the bad ones, whose reason and detail the row has.
        bad: ROW, url, REASON and DETAIL of the bad images, except those that `rows` has.
        surplus: ROW, and the number of its usable images beyond the limit.
        separator: between the URLs of one cell, if it was detected.
        notices: what was detected.
    """

    rows: pl.DataFrame
    bad: pl.DataFrame
    surplus: pl.DataFrame
    separator: str | None
    notices: list[str]


def can_have_several(cells: pl.DataFrame, settings: SourceSettings) -> bool:
    """Whether columns of images can give an item more than one."""
    if cells.width > 1 or settings.separator is not None:
        return True
    return any(
        bool(several(column).any()) if column.dtype == pl.String else column.dtype.is_nested()
        for column in cells
    )


def collect_images(
    cells: pl.DataFrame, settings: SourceSettings, keep: KeepImage, embedded: set[str]
) -> ItemImages:
    """Take the images of each row from its cells: empty, repeated and bad ones are passed over.

    Args:
        cells: the columns of images.
        settings: the separator, and the limit of images per item.
        keep: keeps the images of data URIs.
        embedded: the columns whose images came with the list.
    """
    cells = cells.select(as_text(column) for column in cells)
    separator, notices = settings.separator, list[str]()
    if separator is None:
        separator, notices = _detect_separator(cells)
    images = _images(cells, separator, keep, embedded)
    usable = (
        images.filter(pl.col(REASON).is_null())
        .unique([ROW, "url"], keep="first", maintain_order=True)
        .group_by(ROW, maintain_order=True)
        .agg("url")
    )
    bad = images.filter(pl.col(REASON).is_not_null())
    bad = bad.unique([ROW, "url"], keep="first", maintain_order=True)
    rows = pl.concat(
        [
            usable.select(
                ROW,
                pl.col("url").list.first(),
                pl.col("url").list.slice(1, settings.max_images - 1).alias(OTHER_URLS),
                pl.lit(None, pl.String).alias(REASON),
                pl.lit(None, pl.String).alias(DETAIL),
            ),
            bad.unique(ROW, keep="first", maintain_order=True).join(usable, on=ROW, how="anti"),
        ],
        how="diagonal",
    )
    surplus = pl.col("url").list.len().cast(pl.Int64) - settings.max_images
    return ItemImages(
        rows=_of_all_rows(rows, cells.height),
        bad=bad.join(rows, on=[ROW, "url", REASON], how="anti"),
        surplus=usable.select(ROW, surplus.alias(SURPLUS)).filter(pl.col(SURPLUS) > 0),
        separator=separator if settings.separator is None else None,
        notices=notices,
    )


def _images(
    cells: pl.DataFrame, separator: str | None, keep: KeepImage, embedded: set[str]
) -> pl.DataFrame:
    """ROW, url, REASON and DETAIL of every image, by row, column and position in its cell."""
    columns = [
        cells.select(
            pl.int_range(pl.len(), dtype=pl.UInt32).alias(ROW),
            pl.lit(position, pl.UInt32).alias(_COLUMN),
            image_lists(column, separator).alias("url"),
        ).explode("url")
        for position, column in enumerate(cells)
    ]
    images = trim_urls(pl.concat(columns).sort(ROW, _COLUMN, maintain_order=True))
    images = images.filter(pl.col("url").is_not_null() & (pl.col("url") != ""))
    is_unread = several(images["url"])
    images = images.with_columns(
        pl.when(is_unread).then(pl.lit("several_urls")).alias(REASON),
        pl.when(is_unread).then(pl.lit(_SEVERAL)).alias(DETAIL),
    )
    positions = [position for position, name in enumerate(cells.columns) if name in embedded]
    return check_urls(images, keep, pl.col(_COLUMN).is_in(positions)).drop(_COLUMN)


def _of_all_rows(rows: pl.DataFrame, height: int) -> pl.DataFrame:
    """Rows in their order, with those that have no image at all."""
    numbers = pl.DataFrame({ROW: pl.int_range(height, dtype=pl.UInt32, eager=True)})
    completed = numbers.join(rows, on=ROW, how="left", maintain_order="left").drop(ROW)
    is_empty = pl.col("url").is_null()
    return completed.with_columns(
        pl.when(is_empty).then(pl.lit("empty_url")).otherwise(REASON).alias(REASON),
        pl.when(is_empty).then(pl.lit(DETAILS["empty_url"])).otherwise(DETAIL).alias(DETAIL),
    )


def _detect_separator(cells: pl.DataFrame) -> tuple[str | None, list[str]]:
    """The separator of the URLs in single cells, and the notice about it."""
    texts = [column.alias("cell") for column in cells if column.dtype == pl.String]
    if not texts:
        return None, []
    pooled = pl.concat(texts)
    separator = find_separator(pooled)
    if separator is None:
        return None, []
    count = several(pooled).sum()
    written = separator.replace("\n", "\\n")
    columns = quoted(cells.columns)
    return separator, [
        f"cells of {columns} with several URLs: {count}, read as separated by {separator!r}; "
        f"'separator: \"{written}\"' says so for all later rows"
    ]
