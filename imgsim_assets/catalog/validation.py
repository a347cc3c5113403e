"""From what was read to what counts: chosen columns, checked values, and the rejects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from imgsim_assets.catalog.reader import DETAIL, FILE, LINE, REASON, RawRows, Reject
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
_SCHEME = r"^([A-Za-z][A-Za-z0-9+.-]*)://"
# Object stores are fetched from where the download settings allow it.
_FETCHED_SCHEMES = ("http", "https", "file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")


@dataclass(frozen=True)
class ValidatedRows:
    """A catalog's rows (id, url, carried columns; sorted by id) and its rejects.

    `id_column` and `url_column` are what the source called them.
    """

    rows: pl.DataFrame
    rejects: pl.DataFrame
    id_column: str
    url_column: str


def validate_rows(raw: RawRows, source: Source) -> ValidatedRows:
    """Choose the id and url columns, and split what was read into rows and rejects.

    Of several rows with one id the first counts. Raises SourceError when a chosen column is
    missing, naming the columns there are.
    """
    frame = raw.frame()
    id_column, url_column = _choose_columns(frame, source)
    named = _named(frame, id_column, url_column)
    judged = _judge(named)
    bad = judged.filter(pl.col(REASON).is_not_null())
    good = judged.filter(pl.col(REASON).is_null()).drop(FILE, LINE, REASON, DETAIL)
    return ValidatedRows(
        rows=good.sort("id"),
        rejects=_rejects(raw.rejects, bad),
        id_column=id_column,
        url_column=url_column,
    )


def _choose_columns(frame: pl.DataFrame, source: Source) -> tuple[str, str]:
    names = [name for name in frame.columns if name not in (FILE, LINE)]
    settings = source.settings
    if not names:
        return settings.id or "id", settings.url or "url"
    url = settings.url or ("url" if "url" in names else None)
    if url is None and len(names) == 1:
        url = names[0]
    if url is None:
        raise SourceError(
            f"{source.location}: no column is named 'url'; set 'url:' of the source to the one "
            f"that holds the images: {_listed(names)}"
        )
    id_column = settings.id or ("id" if "id" in names else url)
    for key, column in (("id", id_column), ("url", url)):
        if column not in names:
            raise SourceError(
                f"{source.location}: there is no column {column!r}; set '{key}:' of the source "
                f"to one of {_listed(names)}"
            )
    return id_column, url


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _named(frame: pl.DataFrame, id_column: str, url_column: str) -> pl.DataFrame:
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


def _carried_name(name: str, taken: Sequence[str]) -> str:
    """A carried column keeps its name unless a column of ours has it."""
    if name not in ("id", "url"):
        return name
    renamed = f"source_{name}"
    while renamed in taken:
        renamed = f"source_{renamed}"
    return renamed


def _judge(rows: pl.DataFrame) -> pl.DataFrame:
    """Add REASON and DETAIL, null for rows that count."""
    blank_id = pl.col("id").is_null() | (pl.col("id").str.strip_chars() == "")
    blank_url = pl.col("url").is_null() | (pl.col("url") == "")
    scheme = pl.col("url").str.extract(_SCHEME, 1).str.to_lowercase()
    # Without "://" it is a path, but for the two things that only look like one.
    strange = pl.col("url").str.contains(r"(?i)^(//|data:)") | (
        scheme.is_not_null() & ~scheme.is_in(_FETCHED_SCHEMES)
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
        .when(strange)
        .then(pl.lit("unsupported_scheme"))
        .when(malformed)
        .then(pl.lit("bad_url"))
        .otherwise(None)
        .alias(REASON)
    )
    usable = pl.col(REASON).is_null()
    first_line = pl.col(LINE).filter(usable).first().over("id")
    first_file = pl.col(FILE).filter(usable).first().over("id")
    is_first = (pl.col(LINE) == first_line) & (pl.col(FILE) == first_file)
    return checked.with_columns(
        pl.when(usable & ~is_first).then(pl.lit("duplicate_id")).otherwise(REASON).alias(REASON),
        pl.when(usable & ~is_first)
        .then(pl.format("the id stands already in {} line {}", first_file, first_line))
        .otherwise(pl.col(REASON).replace_strict(_DETAILS, default=None))
        .alias(DETAIL),
    )


_DETAILS = {
    "empty_id": "the id is empty",
    "empty_url": "the image's URL or path is empty",
    "unsupported_scheme": "only http, https, file and object store URLs and paths can be fetched",
    "bad_url": "no URL: control characters, no host, or longer than 8192 bytes",
}


def _rejects(unread: Sequence[Reject], bad: pl.DataFrame) -> pl.DataFrame:
    judged = bad.select(
        pl.col(FILE).alias("file"),
        pl.col(LINE).alias("line"),
        pl.col(REASON).alias("reason"),
        pl.col(DETAIL).alias("detail"),
        pl.format("id={} url={}", pl.col("id").fill_null(""), pl.col("url").fill_null("")).alias(
            "text"
        ),
    )
    listed = pl.DataFrame(
        [(item.file, item.line, item.reason, item.detail, item.text) for item in unread],
        schema=REJECTS_SCHEMA,
        orient="row",
    )
    return (
        pl.concat([listed, judged])
        .with_columns(_printable(pl.col("text").str.slice(0, _MAX_TEXT)))
        .sort("file", "line", "reason")
    )


def _printable(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(r"[\x00-\x08\x0b-\x1f\x7f]", "�")
