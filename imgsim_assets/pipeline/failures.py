"""The failures of a catalog: rejected rows, images that failed, and images without a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from imgsim_assets.catalog.image_rows import OTHER_URLS
from imgsim_assets.catalog.stage import items_table, rejects_table
from imgsim_assets.download.ledger.table import (
    ROW_KEY,
    empty_ledger,
    ledger_table,
    with_all_columns,
)
from imgsim_assets.download.status import OK
from imgsim_assets.encoders.table import SCHEMA, embeddings_table
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# Where an image failed: in the source, in the download, or in the encoder.
SOURCE, IMAGES, EMBEDDINGS = "source", "images", "embeddings"
FAILURES_SCHEMA: dict[str, Any] = {
    "id": pl.String,
    "image": pl.Int32,
    "url": pl.String,
    "stage": pl.String,
    "status": pl.String,
    "detail": pl.String,
    "retryable": pl.Boolean,
    "attempts": pl.Int32,
    "next_retry_at": pl.Datetime("ms", "UTC"),
    "failed_at": pl.Datetime("ms", "UTC"),
    "file": pl.String,
    "line": pl.Int64,
    "text": pl.String,
}
_HOSTS_SCHEMA: dict[Any, Any] = {
    "host": pl.String,
    "images": pl.Int64,
    "failed": pl.Int64,
    "failures": pl.String,
}
# The host of a URL, without user and port.
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/:?#]*)"
# Of a carried column that has the name of one above.
_PREFIX = "source_"


def read_failures(store: Store, name: str) -> pl.DataFrame:
    """Every failure of a catalog in one table.

    Returns:
        FAILURES_SCHEMA, with a row for each image, and the carried columns of its item, sorted by
        stage, status, id and image. A carried column that has the name of another one begins with
        `source_`. A rejected row has no id; `file`, `line` and `text` show it as it is in the
        source.
    """
    items = _newest(items_table(store, name))
    failed = pl.concat([_failed_images(store, name), _undecodable(store, name)])
    carried = [column for column in items.columns if column not in ("id", "url", OTHER_URLS)]
    names = {
        column: f"{_PREFIX}{column}" if column in FAILURES_SCHEMA else column for column in carried
    }
    if carried:
        failed = failed.join(items.select("id", *carried).rename(names), on="id", how="left")
    by = ["stage", "status", "id", "image"]
    ordered = failed.sort(by, descending=[True, False, False, False])
    return pl.concat([_rejects(store, name), ordered], how="diagonal_relaxed")


def most_important(failures: pl.DataFrame, limit: int) -> pl.DataFrame:
    """The failures to look at first: one of each status, then the second of each, and so on.

    Among them, those that no later run tries again come first, then the most frequent status.
    """
    by_status = ["stage", "status"]
    attempts = pl.col("attempts").fill_null(0)
    ranked = failures.with_columns(
        # A rejected row and an image without a vector have no attempts, and no rank without them.
        attempts.rank("ordinal", descending=True).over(by_status).alias("__rank"),
        pl.len().over(by_status).alias("__count"),
        pl.col("retryable").fill_null(value=False).alias("__retryable"),
    )
    order = ["__rank", "__retryable", "__count", "stage", "status", "id", "image"]
    descending = [False, False, True, True, False, False, False]
    ordered = ranked.sort(order, descending=descending, nulls_last=True)
    return ordered.head(limit).select(failures.columns)


def shown_columns(failures: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of failures.

    `image` is left out where all are the first of their items, and columns without any value are.
    """
    shown = failures.select(columns)
    empty = [column.name for column in shown if column.null_count() == len(column)]
    if "image" in columns and shown["image"].max() == 0:
        empty.append("image")
    return shown.drop(empty)


def host_counts(store: Store, name: str, limit: int) -> pl.DataFrame:
    """The hosts with most failures, then with most images.

    Returns:
        host (empty for local files), images, failed, and `failures`, the most frequent statuses.
    """
    rows = _newest(ledger_table(store, name))
    if not rows.width:
        return pl.DataFrame(schema=_HOSTS_SCHEMA)
    failed = pl.col("status") != OK
    by_status = (
        rows.with_columns(pl.col("url").str.extract(_HOST).fill_null("").alias("host"))
        .group_by("host", "status")
        .agg(pl.len().alias("count"))
        .sort(["count", "status"], descending=[True, False])
    )
    named = pl.format("{} {}", "status", "count").filter(failed).head(3)
    return (
        by_status.group_by("host")
        .agg(
            pl.col("count").sum().alias("images"),
            pl.col("count").filter(failed).sum().alias("failed"),
            named.implode().list.join(", ").alias("failures"),
        )
        .sort(["failed", "images", "host"], descending=[True, True, False])
        .head(limit)
        .cast(_HOSTS_SCHEMA)
    )


def _failed_images(store: Store, name: str) -> pl.DataFrame:
    rows = _newest(ledger_table(store, name))
    ledger = with_all_columns(rows) if rows.width else empty_ledger()
    failed = ledger.filter(pl.col("status") != OK)
    return _failures(failed.rename({"fetched_at": "failed_at"}), IMAGES)


def _undecodable(store: Store, name: str) -> pl.DataFrame:
    rows = _newest(embeddings_table(store, name))
    rows = pl.concat([pl.DataFrame(schema=SCHEMA), rows], how="diagonal_relaxed")
    failed = rows.filter(pl.col("status") != OK).with_columns(pl.col("image").fill_null(0))
    ledger = _newest(ledger_table(store, name))
    if ledger.width:
        failed = failed.join(ledger.select(*ROW_KEY, "url"), on=ROW_KEY, how="left")
    return _failures(failed, EMBEDDINGS).with_columns(pl.lit(value=False).alias("retryable"))


def _rejects(store: Store, name: str) -> pl.DataFrame:
    rows = _newest(rejects_table(store, name))
    if rows.width:
        rows = rows.rename({"reason": "status"}).sort("file", "line")
    return _failures(rows, SOURCE).with_columns(pl.lit(value=False).alias("retryable"))


def _failures(rows: pl.DataFrame, stage: str) -> pl.DataFrame:
    """Rows with exactly the columns of FAILURES_SCHEMA; those that they lack are null."""
    empty = pl.DataFrame(schema=FAILURES_SCHEMA)
    if not rows.width:
        return empty
    known = rows.select(column for column in rows.columns if column in FAILURES_SCHEMA)
    return pl.concat(
        [empty, known.with_columns(pl.lit(stage).alias("stage"))], how="diagonal_relaxed"
    )


def _newest(table: Table) -> pl.DataFrame:
    commit = table.latest()
    return table.read(commit) if commit is not None else pl.DataFrame()
