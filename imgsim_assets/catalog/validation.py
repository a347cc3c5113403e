"""Validates raw rows: chooses the id and url columns, and separates valid rows from rejects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from imgsim_assets.catalog.raw_rows import DETAIL, FILE, LINE, REASON, RawRows, Reject
from imgsim_assets.catalog.source import Source
from imgsim_assets.errors import SourceError

MAX_URL_LENGTH = 8192
_MAX_TEXT = 500
REJECTS_SCHEMA = {
    "file": pl.String,
    "line": pl.Int64,
    "reason": pl.String,
    "detail": pl.String,
    "text": pl.String,
}
_DETAILS = {
    "empty_id": "the id is empty",
    "empty_url": "the image's URL or path is empty",
    "unsupported_scheme": "only http, https, file and object store URLs and paths can be fetched",
    "bad_url": f"not a URL: control characters, no host, or longer than {MAX_URL_LENGTH} bytes",
}
_SCHEME = r"^([A-Za-z][A-Za-z0-9+.-]*)://"
# The download settings decide which object stores may be read.
_SUPPORTED_SCHEMES = ("http", "https", "file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")


@dataclass(frozen=True)
class ValidatedRows:
    """A catalog's valid rows and its rejects.

    Attributes:
        rows: id, url and the carried columns, sorted by id.
        rejects: REJECTS_SCHEMA, sorted by file and line.
        id_column: the source's name of the id column.
        url_column: the source's name of the url column.
    """

    rows: pl.DataFrame
    rejects: pl.DataFrame
    id_column: str
    url_column: str


def validate_rows(raw: RawRows, source: Source) -> ValidatedRows:
    """Separate the rows of a source into valid rows and rejects.

    Of several valid rows with one id, the first is taken and the others are rejected.

    Raises:
        SourceError: when a chosen column is missing; the message lists the existing columns.
    """
    frame = raw.frame()
    id_column, url_column = _choose_columns(frame, source)
    checked = _find_invalid(_rename_columns(frame, id_column, url_column))
    invalid = checked.filter(pl.col(REASON).is_not_null())
    valid = checked.filter(pl.col(REASON).is_null()).drop(FILE, LINE, REASON, DETAIL)
    return ValidatedRows(
        rows=valid.sort("id"),
        rejects=_rejects_frame(raw.rejects, invalid),
        id_column=id_column,
        url_column=url_column,
    )


def _choose_columns(frame: pl.DataFrame, source: Source) -> tuple[str, str]:
    names = [name for name in frame.columns if name not in (FILE, LINE)]
    settings = source.settings
    if not names:
        return settings.id or "id", settings.url or "url"
    listed_names = ", ".join(repr(name) for name in names)
    url = settings.url or ("url" if "url" in names else None)
    if url is None and len(names) == 1:
        url = names[0]
    if url is None:
        raise SourceError(
            f"{source.location}: no column is named 'url'; set 'url:' of the source to the one "
            f"that holds the images: {listed_names}"
        )
    id_column = settings.id or ("id" if "id" in names else url)
    for key, column in (("id", id_column), ("url", url)):
        if column not in names:
            raise SourceError(
                f"{source.location}: there is no column {column!r}; set '{key}:' of the source "
                f"to one of {listed_names}"
            )
    return id_column, url


def _rename_columns(frame: pl.DataFrame, id_column: str, url_column: str) -> pl.DataFrame:
    if id_column not in frame.columns:
        return pl.DataFrame(
            schema={FILE: pl.String, LINE: pl.Int64, "id": pl.String, "url": pl.String}
        )
    carried = [name for name in frame.columns if name not in (FILE, LINE, id_column, url_column)]
    return frame.select(
        FILE,
        LINE,
        pl.col(id_column).cast(pl.String).alias("id"),
        pl.col(url_column).cast(pl.String).str.strip_chars().alias("url"),
        *(pl.col(name).alias(_carried_name(name, frame.columns)) for name in carried),
    )


def _carried_name(name: str, existing_names: Sequence[str]) -> str:
    """A carried column named id or url is renamed, since the chosen columns get these names."""
    if name not in ("id", "url"):
        return name
    renamed = f"source_{name}"
    while renamed in existing_names:
        renamed = f"source_{renamed}"
    return renamed


def _find_invalid(rows: pl.DataFrame) -> pl.DataFrame:
    """Add REASON and DETAIL, null for valid rows."""
    blank_id = pl.col("id").is_null() | (pl.col("id").str.strip_chars() == "")
    blank_url = pl.col("url").is_null() | (pl.col("url") == "")
    scheme = pl.col("url").str.extract(_SCHEME, 1).str.to_lowercase()
    # Text without "://" is a path, except for these two forms.
    unsupported = pl.col("url").str.contains(r"(?i)^(//|data:)") | (
        scheme.is_not_null() & ~scheme.is_in(_SUPPORTED_SCHEMES)
    )
    malformed = (
        pl.col("url").str.contains(r"[\x00-\x1f\x7f]")
        | (pl.col("url").str.len_bytes() > MAX_URL_LENGTH)
        | (scheme.is_in(["http", "https"]) & ~pl.col("url").str.contains(r"^\w+://[^/?#\s]+"))
    )
    checked = rows.with_columns(
        pl.when(blank_id)
        .then(pl.lit("empty_id"))
        .when(blank_url)
        .then(pl.lit("empty_url"))
        .when(unsupported)
        .then(pl.lit("unsupported_scheme"))
        .when(malformed)
        .then(pl.lit("bad_url"))
        .otherwise(None)
        .alias(REASON)
    )
    valid = pl.col(REASON).is_null()
    first_line = pl.col(LINE).filter(valid).first().over("id")
    first_file = pl.col(FILE).filter(valid).first().over("id")
    repeated = valid & ~((pl.col(LINE) == first_line) & (pl.col(FILE) == first_file))
    return checked.with_columns(
        pl.when(repeated).then(pl.lit("duplicate_id")).otherwise(REASON).alias(REASON),
        pl.when(repeated)
        .then(pl.format("the id is already used in {} line {}", first_file, first_line))
        .otherwise(pl.col(REASON).replace_strict(_DETAILS, default=None))
        .alias(DETAIL),
    )


def _rejects_frame(unreadable: Sequence[Reject], invalid: pl.DataFrame) -> pl.DataFrame:
    text = pl.format("id={} url={}", pl.col("id").fill_null(""), pl.col("url").fill_null(""))
    invalid_rejects = invalid.select(
        pl.col(FILE).alias("file"),
        pl.col(LINE).alias("line"),
        pl.col(REASON).alias("reason"),
        pl.col(DETAIL).alias("detail"),
        text.alias("text"),
    )
    unreadable_rejects = pl.DataFrame(
        [(item.file, item.line, item.reason, item.detail, item.text) for item in unreadable],
        schema=REJECTS_SCHEMA,
        orient="row",
    )
    short_text = pl.col("text").str.slice(0, _MAX_TEXT)
    return (
        pl.concat([unreadable_rejects, invalid_rejects])
        .with_columns(
            short_text.str.replace_all(r"[\x00-\x08\x0b-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}")
        )
        .sort("file", "line", "reason")
    )
