"""The table of rejected rows and images, and how messages show its first ones."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import polars.selectors as cs
from polars.selectors import Selector

from imgsim_assets.catalog.raw_rows import DETAIL, FILE, LINE, REASON, Reject
from imgsim_assets.text import REPLACEMENT, UNPRINTABLE, without_credentials

REJECTS_SCHEMA = {
    "file": pl.String,
    "line": pl.Int64,
    "rejected": pl.String,
    "reason": pl.String,
    "detail": pl.String,
    "text": pl.String,
}
# What a row of the table rejects.
ITEM, IMAGE = "item", "image"
_MAX_TEXT = 500
_MAY_HAVE_CREDENTIALS = r"://\S*@"
_MAX_SHOWN = 3
# The settings that accept such rows, where the detail does not name one.
_FIXES = {
    "bad_id": "'id:' names the column of ids",
    "bad_url": "'url:' names the column of the images",
    "duplicate_id": "'id:' names another column of ids, and 'on_duplicate:' says which row counts",
    "empty_id": "'id:' names the column of ids",
    "empty_url": "'url:' names the column of the images",
    "unreadable_line": "'encoding:', 'quote:' and 'escape:' say how the file is written",
    "unsupported_scheme": "'url:' names the column of the images",
}


def rejects_frame(
    unreadable: Sequence[Reject], invalid: pl.DataFrame, images: pl.DataFrame
) -> pl.DataFrame:
    """Rejects of reading and of validation, sorted by file and line.

    Args:
        unreadable: rows that could not be read.
        invalid: rejected items.
        images: rejected images beside those of `invalid`.
    """
    unreadable_rejects = pl.DataFrame(
        [(item.file, item.line, ITEM, item.reason, item.detail, item.text) for item in unreadable],
        schema=REJECTS_SCHEMA,
        orient="row",
    )
    rejects = pl.concat([unreadable_rejects, _rejected(invalid, ITEM), _rejected(images, IMAGE)])
    rejects = mask_credentials(rejects, cs.string())
    return rejects.with_columns(
        pl.col("text").str.slice(0, _MAX_TEXT).str.replace_all(UNPRINTABLE, REPLACEMENT),
        pl.col("detail").str.replace_all(UNPRINTABLE, REPLACEMENT),
    ).sort("file", "line", "rejected", "reason", descending=[False, False, True, False])


def _rejected(rows: pl.DataFrame, kind: str) -> pl.DataFrame:
    return rows.select(
        pl.col(FILE).alias("file"),
        pl.col(LINE).alias("line"),
        pl.lit(kind).alias("rejected"),
        pl.col(REASON).alias("reason"),
        pl.col(DETAIL).alias("detail"),
        _text(rows).alias("text"),
    )


def _text(rows: pl.DataFrame) -> pl.Expr:
    """The id, the URL and the carried cells of rows, by column."""
    cells = cs.string() | cs.numeric() | cs.boolean() | cs.temporal()
    own = cs.by_name("id", "url") | cs.starts_with("__")
    texts = {name: pl.col(name).cast(pl.String) for name in cs.expand_selector(rows, cells - own)}
    carried = [
        pl.when(text != "").then(pl.format(" {}={}", pl.lit(name), text)).otherwise(pl.lit(""))
        for name, text in texts.items()
    ]
    places = [pl.col(name).fill_null("") for name in ("id", "url")]
    return pl.concat_str(pl.format("id={} url={}", *places), *carried)


def mask_credentials(rows: pl.DataFrame, columns: Selector) -> pl.DataFrame:
    """The rows with `***` for the user names and passwords of URLs in some columns of text."""
    names = [
        name
        for name in cs.expand_selector(rows, columns)
        if rows[name].str.contains(_MAY_HAVE_CREDENTIALS).any()
    ]
    return rows.with_columns(
        pl.col(name).map_elements(without_credentials, return_dtype=pl.String) for name in names
    )


def count_images(rejects: pl.DataFrame) -> int:
    """How many of the rejects are images of items that have others; the rest are rows."""
    # Tables of earlier snapshots have rows only.
    return int((rejects["rejected"] == IMAGE).sum()) if "rejected" in rejects.columns else 0


def counts_line(rejects: pl.DataFrame) -> str:
    """The numbers of rejected rows and images, such as `rejected rows: 3, images: 1`."""
    images = count_images(rejects)
    rows = f"rejected rows: {rejects.height - images}"
    return f"{rows}, images: {images}" if images else rows


def describe_rejects(rejects: pl.DataFrame) -> str:
    """The first rejected rows with file, line and reason, and the settings that fix them."""
    shown = rejects.head(_MAX_SHOWN)
    rows = [
        f"{row['file']}{_line(row['line'])}: {row['detail']}" for row in shown.iter_rows(named=True)
    ]
    if rejects.height > len(rows):
        rows.append("...")
    reasons = shown["reason"].unique(maintain_order=True).to_list()
    fixes = dict.fromkeys(_FIXES[reason] for reason in reasons if reason in _FIXES)
    return "; ".join([f"{rejects.height} rejected: {rows[0]}", *rows[1:], *fixes])


def _line(line: int) -> str:
    return f" line {line}" if line else ""
