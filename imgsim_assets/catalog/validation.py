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
    passed_over_notices,
)
from imgsim_assets.catalog.embedded import KeepImage, data_uri_bytes, sha256_of
from imgsim_assets.catalog.hosts import authority_problem
from imgsim_assets.catalog.ids import number_repeats, resolve_duplicates, spacing_notices
from imgsim_assets.catalog.locations import EMBEDDED, IMAGE_SUFFIXES, LIST, SEVERAL
from imgsim_assets.catalog.raw_rows import DETAIL, FILE, LINE, REASON, RawRows
from imgsim_assets.catalog.rejects import describe_rejects, mask_credentials, rejects_frame
from imgsim_assets.catalog.source import Source
from imgsim_assets.catalog.text import ZERO_WIDTH

MAX_URL_LENGTH = 8192
_DETAILS = {
    "empty_id": "the id is empty",
    "bad_id": "the id has control characters, or is a URL with a password",
    "empty_url": "the image's URL or path is empty",
    "repeated_header": "the line repeats the header",
    "several_urls": "several URLs in one cell; write one row with one URL for each image",
    "unsupported_scheme": "only http, https, file and object store URLs, data URIs and paths can "
    "be fetched",
    "bad_url": f"not a URL: control characters, no host, or longer than {MAX_URL_LENGTH} bytes",
}
_SCHEME = r"^([A-Za-z][A-Za-z0-9+.-]*)://"
# The download settings decide which object stores may be read.
_SUPPORTED_SCHEMES = ("http", "https", "file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
_BAD_ID = r"[\p{Cc}\x{2028}\x{2029}]|://[^/?#\s]*@"
# As browsers do, a backslash ends the host.
_AUTHORITY = r"^(?<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?<authority>[^/\\?#]*)"
_DATA_URI = r"(?i)^data:"
_ZERO_WIDTH = f"[{ZERO_WIDTH}]"
_AROUND_URL = rf"^[\s{ZERO_WIDTH}]+|[\s{ZERO_WIDTH}]+$"
# `//host` is of the scheme of its page; a port other than 443 is rarely encrypted.
_NO_SCHEME_PORT = r"^//([^/?#:]+|\[[^\]]*\]):(?:\d*)(?:[/?#]|$)"
_HTTPS_PORT = r"^//[^/?#]*:443(?:[/?#]|$)"


@dataclass(frozen=True)
class ValidatedRows:
    """A catalog's valid rows and its rejects.

    Attributes:
        rows: id, url and the carried columns, sorted by id.
        rejects: REJECTS_SCHEMA, sorted by file and line.
        id_column: the source's name of the id column; that of the url column if there are no ids.
        url_column: the source's name of the url column.
        notices: what was detected or adjusted in the source.
    """

    rows: pl.DataFrame
    rejects: pl.DataFrame
    id_column: str
    url_column: str
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
    rows = _clean(_rename_columns(frame, chosen))
    rows = _check_rows(rows, chosen, keep, allow_embedded=chosen.url in raw.embedded)
    notices = list(raw.notices)
    if chosen.id == chosen.url:
        rows = number_repeats(_image_ids(rows, f"{chosen.url}_path"))
        notices += passed_over_notices(frame, chosen.url)
    else:
        rows, replaced = resolve_duplicates(rows, settings.on_duplicate)
        notices += replaced + spacing_notices(rows["id"])
    invalid = rows.filter(pl.col(REASON).is_not_null())
    valid = rows.filter(pl.col(REASON).is_null()).drop(FILE, LINE, REASON, DETAIL)
    return ValidatedRows(
        rows=mask_credentials(valid, cs.string() - cs.by_name("id", "url")).sort("id"),
        rejects=rejects_frame(raw.rejects, invalid),
        id_column=chosen.id,
        url_column=chosen.url,
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
    if chosen.id not in frame.columns:
        return pl.DataFrame(
            schema={FILE: pl.String, LINE: pl.Int64, "id": pl.String, "url": pl.String}
        )
    carried = [name for name in frame.columns if name not in (FILE, LINE, chosen.id, chosen.url)]
    return frame.select(
        FILE,
        LINE,
        as_text(frame[chosen.id]).alias("id"),
        as_text(frame[chosen.url]).alias("url"),
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


def _clean(rows: pl.DataFrame) -> pl.DataFrame:
    """Remove zero-width characters around every cell, and blanks around the url."""
    texts = [name for name, dtype in rows.schema.items() if dtype == pl.String and name != FILE]
    marked = [name for name in texts if rows[name].str.contains(_ZERO_WIDTH).any()]
    rows = rows.with_columns(pl.col(name).str.strip_chars(ZERO_WIDTH) for name in marked)
    url = pl.col("url").str.strip_chars()
    return rows.with_columns(url.str.replace_all(_AROUND_URL, "") if "url" in marked else url)


def _check_rows(
    rows: pl.DataFrame, chosen: ChosenColumns, keep: KeepImage, *, allow_embedded: bool
) -> pl.DataFrame:
    """Add REASON and DETAIL, null for valid rows; `//host` gets a scheme, data URIs a digest."""
    url = pl.col("url")
    rows = rows.with_columns(
        pl.when(url.str.starts_with("//"))
        .then(pl.when(_is_plain_http(url)).then(pl.lit("http:")).otherwise(pl.lit("https:")) + url)
        .otherwise(url)
        .alias("url")
    )
    blank_id = pl.col("id").is_null() | (pl.col("id").str.strip_chars() == "")
    has_ids = chosen.id != chosen.url
    blank_url = url.is_null() | (url == "")
    scheme = url.str.extract(_SCHEME, 1).str.to_lowercase()
    unsupported = scheme.is_not_null() & ~scheme.is_in(_SUPPORTED_SCHEMES)
    if not allow_embedded:
        unsupported |= url.str.starts_with(EMBEDDED)
    is_data = url.str.contains(_DATA_URI)
    malformed = (
        url.str.contains(r"[\x00-\x1f\x7f]")
        | (url.str.len_bytes() > MAX_URL_LENGTH)
        | (scheme.is_in(["http", "https"]) & ~url.str.contains(r"^\w+://[^/?#\s]+"))
    )
    reason = pl.coalesce(
        _reason((pl.col("id") == chosen.id) & (url == chosen.url), "repeated_header"),
        _reason(pl.lit(has_ids) & blank_id, "empty_id"),
        _reason(pl.lit(has_ids) & pl.col("id").str.contains(_BAD_ID), "bad_id"),
        _reason(blank_url, "empty_url"),
        _reason(~is_data & (url.str.contains(SEVERAL) | url.str.contains(LIST)), "several_urls"),
        _reason(unsupported, "unsupported_scheme"),
        _reason(~is_data & malformed, "bad_url"),
    )
    rows = rows.with_columns(reason.alias(REASON)).with_columns(
        pl.col(REASON).replace_strict(_DETAILS, default=None, return_dtype=pl.String).alias(DETAIL)
    )
    rows = _check_authorities(rows)
    return _keep_data_uris(rows, keep) if rows.select(is_data.any()).item() else rows


def _check_authorities(rows: pl.DataFrame) -> pl.DataFrame:
    """Add the reason and detail of URLs whose host, port or user name cannot be requested."""
    parts = pl.col("url").str.extract_groups(_AUTHORITY).struct
    authorities = rows.select(parts.field("scheme").str.to_lowercase(), parts.field("authority"))
    distinct = authorities.unique().drop_nulls()
    problems = [_authority_problem(*each) for each in distinct.iter_rows()]
    problem = authorities.join(
        distinct.with_columns(pl.Series(DETAIL, problems, pl.String)),
        on=["scheme", "authority"],
        how="left",
        maintain_order="left",
    )[DETAIL]
    is_new = pl.col(REASON).is_null() & problem.is_not_null()
    return rows.with_columns(
        pl.when(is_new).then(pl.lit("bad_url")).otherwise(REASON).alias(REASON),
        pl.when(is_new).then(problem).otherwise(DETAIL).alias(DETAIL),
    )


def _authority_problem(scheme: str, authority: str) -> str | None:
    if scheme in ("http", "https"):
        return authority_problem(authority)
    # Azure's URLs have the name of a container before the @.
    user, at, _ = authority.rpartition("@")
    return "passwords in URLs are not sent; remove them" if at and ":" in user else None


def _reason(condition: pl.Expr, name: str) -> pl.Expr:
    return pl.when(condition).then(pl.lit(name))


def _is_plain_http(url: pl.Expr) -> pl.Expr:
    return url.str.contains(_NO_SCHEME_PORT) & ~url.str.contains(_HTTPS_PORT)


def _keep_data_uris(rows: pl.DataFrame, keep: KeepImage) -> pl.DataFrame:
    """Replace data URIs by the digests of their images; one without an image is a bad_url."""
    urls, reasons, details = (rows[name].to_list() for name in ("url", REASON, DETAIL))
    for position, url in enumerate(urls):
        if url is None or url[:5].lower() != "data:" or reasons[position] is not None:
            continue
        try:
            urls[position] = f"{EMBEDDED}{keep(data_uri_bytes(url))}"
        except ValueError as error:
            reasons[position], details[position] = "bad_url", str(error)
            urls[position] = url[:100]
    return rows.with_columns(
        pl.Series("url", urls, pl.String),
        pl.Series(REASON, reasons, pl.String),
        pl.Series(DETAIL, details, pl.String),
    )


def _image_ids(rows: pl.DataFrame, path_column: str) -> pl.DataFrame:
    """The images' URLs or paths as ids; an embedded image has the path that came with it."""
    if path_column in rows.columns and rows[path_column].dtype == pl.String:
        path = pl.col(path_column)
        is_embedded = pl.col("url").str.starts_with(EMBEDDED) & path.str.contains(r"\S")
        return rows.with_columns(id=pl.when(is_embedded).then(path).otherwise("url"))
    return rows.with_columns(id="url")
