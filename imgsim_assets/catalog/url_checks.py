"""Checks of the URLs and paths of images, one per row."""

from __future__ import annotations

import polars as pl

from imgsim_assets.catalog.embedded import KeepImage, data_uri_bytes
from imgsim_assets.catalog.hosts import authority_problem
from imgsim_assets.catalog.locations import EMBEDDED, SCHEMES
from imgsim_assets.catalog.raw_rows import DETAIL, REASON
from imgsim_assets.catalog.text import ZERO_WIDTH

MAX_URL_LENGTH = 8192
_ZERO_WIDTH = f"[{ZERO_WIDTH}]"
_AROUND_URL = rf"^[\s{ZERO_WIDTH}]+|[\s{ZERO_WIDTH}]+$"
_SCHEME = r"^([A-Za-z][A-Za-z0-9+.-]*)://"
# As browsers do, a backslash ends the host.
_AUTHORITY = r"^(?<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?<authority>[^/\\?#]*)"
_DATA_URI = r"(?i)^data:"
# `//host` is of the scheme of its page; a port other than 443 is rarely encrypted.
_NO_SCHEME_PORT = r"^//([^/?#:]+|\[[^\]]*\]):(?:\d*)(?:[/?#]|$)"
_HTTPS_PORT = r"^//[^/?#]*:443(?:[/?#]|$)"
# What the reasons of rejected images mean.
DETAILS = {
    "empty_url": "the image's URL or path is empty",
    "unsupported_scheme": "only http, https, file and object store URLs, data URIs and paths can "
    "be fetched",
    "bad_url": f"not a URL: control characters, no host, or longer than {MAX_URL_LENGTH} bytes",
}


def trim_urls(rows: pl.DataFrame) -> pl.DataFrame:
    """Remove blanks and zero-width characters around the url."""
    url = pl.col("url").str.strip_chars()
    is_marked = rows["url"].str.contains(_ZERO_WIDTH).any()
    return rows.with_columns(url.str.replace_all(_AROUND_URL, "") if is_marked else url)


def check_urls(rows: pl.DataFrame, keep: KeepImage, allow_embedded: pl.Expr) -> pl.DataFrame:
    """Complete REASON and DETAIL; `//host` gets a scheme, data URIs a digest.

    Args:
        rows: with url, REASON and DETAIL, which are null for rows without a problem so far.
        keep: keeps the images of data URIs.
        allow_embedded: whether a url may be the digest of an image that came with the list.
    """
    url = pl.col("url")
    rows = rows.with_columns(
        pl.when(url.str.starts_with("//"))
        .then(pl.when(_is_plain_http(url)).then(pl.lit("http:")).otherwise(pl.lit("https:")) + url)
        .otherwise(url)
        .alias("url")
    )
    scheme = url.str.extract(_SCHEME, 1).str.to_lowercase()
    unsupported = scheme.is_not_null() & ~scheme.is_in(SCHEMES)
    unsupported |= url.str.starts_with(EMBEDDED) & ~allow_embedded
    is_data = url.str.contains(_DATA_URI)
    malformed = (
        url.str.contains(r"[\x00-\x1f\x7f]")
        | (url.str.len_bytes() > MAX_URL_LENGTH)
        | (scheme.is_in(["http", "https"]) & ~url.str.contains(r"^\w+://[^/?#\s]+"))
    )
    rows = rows.with_columns(
        pl.coalesce(
            REASON,
            reason(url.is_null() | (url == ""), "empty_url"),
            reason(unsupported, "unsupported_scheme"),
            reason(~is_data & malformed, "bad_url"),
        ).alias(REASON)
    ).with_columns(
        pl.coalesce(
            DETAIL,
            pl.col(REASON).replace_strict(DETAILS, default=None, return_dtype=pl.String),
        ).alias(DETAIL)
    )
    rows = _check_authorities(rows)
    return _keep_data_uris(rows, keep) if rows.select(is_data.any()).item() else rows


def reason(condition: pl.Expr, name: str) -> pl.Expr:
    """The name of a problem where the condition holds, else null."""
    return pl.when(condition).then(pl.lit(name))


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
