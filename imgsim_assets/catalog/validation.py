"""Validates raw rows: cleans their cells, and separates valid rows from rejects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import polars.selectors as cs

from imgsim_assets.catalog.columns import (
    ChosenColumns,
    as_text,
    choose_columns,
    further_images_notices,
    passed_over_notices,
)
from imgsim_assets.catalog.embedded import KeepImage, sha256_of
from imgsim_assets.catalog.ids import number_repeats, resolve_duplicates, spacing_notices
from imgsim_assets.catalog.image_rows import OTHER_URLS
from imgsim_assets.catalog.item_images import (
    IMAGE_REASONS,
    ROW,
    SURPLUS,
    ItemImages,
    can_have_several,
    collect_images,
)
from imgsim_assets.catalog.locations import EMBEDDED, IMAGE_SUFFIXES
from imgsim_assets.catalog.raw_rows import DETAIL, FILE, LINE, REASON, RawRows
from imgsim_assets.catalog.rejects import describe_rejects, mask_credentials, rejects_frame
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import Source
from imgsim_assets.catalog.text import ZERO_WIDTH
from imgsim_assets.catalog.url_checks import check_urls, reason, trim_urls

_DETAILS = {
    "empty_id": "the id is empty",
    "bad_id": "the id has control characters, or is a URL with a password",
    "repeated_header": "the line repeats the header",
}
_BAD_ID = r"[\p{Cc}\x{2028}\x{2029}]|://[^/?#\s]*@"
_ZERO_WIDTH = f"[{ZERO_WIDTH}]"
# Of the items; all others are carried.
OWN_COLUMNS = frozenset({"id", "url", OTHER_URLS})


@dataclass(frozen=True)
class ValidatedRows:
    """A catalog's valid rows and its rejects.

    Attributes:
        rows: id, url, other_urls if an item may have several images, and the carried columns,
            sorted by id.
        rejects: REJECTS_SCHEMA, sorted by file and line.
        id_column: the source's name of the id column; the first of the images' if there are no
            ids.
        url_columns: the source's names of the columns of images.
        separator: between the URLs of one cell, if it was detected.
        notices: what was detected or adjusted in the source.
    """

    rows: pl.DataFrame
    rejects: pl.DataFrame
    id_column: str
    url_columns: tuple[str, ...]
    separator: str | None = None
    notices: Sequence[str] = ()


def validate_rows(raw: RawRows, source: Source, keep: KeepImage = sha256_of) -> ValidatedRows:
    """Separate the rows of a source into valid rows and rejects.

    Args:
        raw: the rows as they were read.
        source: their source, whose settings may name the columns, and the row that counts among
            several with one id.
        keep: keeps the images of data URIs.

    Raises:
        SourceError: when a column is missing or is not clear; the message lists the candidates.
    """
    settings = source.settings
    frame = raw.frame()
    chosen = choose_columns(frame, settings)
    rows = _check_ids(_clean(_rename_columns(frame, chosen)), chosen)
    notices = list(raw.notices)
    if not settings.url_columns:
        notices += further_images_notices(frame, chosen.urls[0])
    cells = frame.select(name for name in chosen.urls if name in frame.columns)
    images = None
    if source.format != "images" and can_have_several(cells, settings):
        images = collect_images(cells, settings, keep, raw.embedded)
        notices += images.notices
        rows = _with_images(rows, images, has_ids=chosen.has_ids)
    else:
        rows = check_urls(rows, keep, pl.lit(chosen.urls[0] in raw.embedded))
    if not chosen.has_ids:
        rows = number_repeats(_image_ids(rows, f"{chosen.urls[0]}_path"))
        notices += passed_over_notices(frame, chosen.urls)
    else:
        rows, replaced = resolve_duplicates(rows, settings.on_duplicate)
        notices += replaced + spacing_notices(rows["id"])
    invalid = rows.filter(pl.col(REASON).is_not_null())
    valid = rows.filter(pl.col(REASON).is_null())
    bad_images = invalid.clear()
    if images is not None:
        bad_images = _bad_images(rows, images.bad)
        notices += _surplus_notices(valid, images.surplus, settings)
        valid = valid.drop(ROW)
    valid = valid.drop(FILE, LINE, REASON, DETAIL)
    return ValidatedRows(
        rows=mask_credentials(valid, cs.string() - cs.by_name("id", "url")).sort("id"),
        rejects=rejects_frame(raw.rejects, invalid, bad_images),
        id_column=chosen.id,
        url_columns=chosen.urls,
        separator=images.separator if images is not None else None,
        notices=tuple(notices),
    )


def no_rows_message(validated: ValidatedRows, source: Source) -> str:
    """Why a source has no valid row."""
    message = f"{source.location} holds no usable row"
    if source.format == "images" and not source.files:
        message = (
            f"{source.location} holds no images ({' '.join(sorted(IMAGE_SUFFIXES))}); lists "
            "in a folder need a pattern, such as *.csv"
        )
    if validated.rejects.height:
        message += f": {describe_rejects(validated.rejects)}"
    return message


def _rename_columns(frame: pl.DataFrame, chosen: ChosenColumns) -> pl.DataFrame:
    """The id, the first column of images if it is text, and the carried columns."""
    if chosen.id not in frame.columns:
        return pl.DataFrame(
            schema={FILE: pl.String, LINE: pl.Int64, "id": pl.String, "url": pl.String}
        )
    carried = [name for name in frame.columns if name not in (FILE, LINE, chosen.id, *chosen.urls)]
    url = as_text(frame[chosen.urls[0]])
    if url.dtype != pl.String:
        url = pl.Series(pl.repeat(None, frame.height, dtype=pl.String, eager=True))
    return frame.select(
        FILE,
        LINE,
        (as_text(frame[chosen.id]) if chosen.has_ids else url).alias("id"),
        url.alias("url"),
        *(pl.col(name).alias(_carried_name(name, frame.columns)) for name in carried),
    )


def _carried_name(name: str, existing_names: Sequence[str]) -> str:
    """A carried column with a name of the table's own columns is renamed."""
    if name not in OWN_COLUMNS:
        return name
    renamed = f"source_{name}"
    while renamed in existing_names:
        renamed = f"source_{renamed}"
    return renamed


def _clean(rows: pl.DataFrame) -> pl.DataFrame:
    """Remove zero-width characters around every cell, and blanks around the url."""
    texts = rows.select(cs.string() - cs.by_name(FILE, "url")).columns
    marked = [name for name in texts if rows[name].str.contains(_ZERO_WIDTH).any()]
    rows = rows.with_columns(pl.col(name).str.strip_chars(ZERO_WIDTH) for name in marked)
    return trim_urls(rows)


def _check_ids(rows: pl.DataFrame, chosen: ChosenColumns) -> pl.DataFrame:
    """Add REASON and DETAIL, null for rows with a valid id."""
    is_blank = pl.col("id").is_null() | (pl.col("id").str.strip_chars() == "")
    is_header = (pl.col("id") == chosen.id) & (pl.col("url") == chosen.urls[0])
    found = pl.coalesce(
        reason(is_header, "repeated_header"),
        reason(pl.lit(chosen.has_ids) & is_blank, "empty_id"),
        reason(pl.lit(chosen.has_ids) & pl.col("id").str.contains(_BAD_ID), "bad_id"),
    )
    return rows.with_columns(found.alias(REASON)).with_columns(
        pl.col(REASON).replace_strict(_DETAILS, default=None, return_dtype=pl.String).alias(DETAIL)
    )


def _with_images(rows: pl.DataFrame, images: ItemImages, *, has_ids: bool) -> pl.DataFrame:
    """The rows with their numbers and images; a bad id goes before bad images."""
    ids = rows.select(pl.col(REASON).alias("__id_reason"), pl.col(DETAIL).alias("__id_detail"))
    carried = rows.drop("id", "url", REASON, DETAIL, FILE, LINE)
    own = rows.select(FILE, LINE, "id")
    joined = pl.concat([own, images.rows, carried, ids], how="horizontal").with_row_index(ROW)
    has_bad_id = pl.col("__id_reason").is_not_null()
    return joined.with_columns(
        pl.coalesce("__id_reason", REASON).alias(REASON),
        pl.when(has_bad_id).then("__id_detail").otherwise(DETAIL).alias(DETAIL),
    ).drop("__id_reason", "__id_detail")


def _bad_images(rows: pl.DataFrame, bad: pl.DataFrame) -> pl.DataFrame:
    """The bad images of valid items, and of items that are rejected for their images."""
    is_concerned = pl.col(REASON).is_null() | pl.col(REASON).is_in(IMAGE_REASONS)
    items = rows.filter(is_concerned).select(ROW, FILE, LINE, "id")
    return bad.join(items, on=ROW, how="inner", maintain_order="left")


def _surplus_notices(
    valid: pl.DataFrame, surplus: pl.DataFrame, settings: SourceSettings
) -> list[str]:
    counts = surplus.join(valid, on=ROW, how="semi")[SURPLUS]
    if not len(counts):
        return []
    return [
        f"images beyond 'max_images: {settings.max_images}': {counts.sum()} of {len(counts)} "
        "items, which are left out"
    ]


def _image_ids(rows: pl.DataFrame, path_column: str) -> pl.DataFrame:
    """The images' URLs or paths as ids; an embedded image has the path that came with it."""
    if path_column in rows.columns and rows[path_column].dtype == pl.String:
        path = pl.col(path_column)
        is_embedded = pl.col("url").str.starts_with(EMBEDDED) & path.str.contains(r"\S")
        return rows.with_columns(id=pl.when(is_embedded).then(path).otherwise("url"))
    return rows.with_columns(id="url")
