"""The table `<name>/images`: one row for every image of an item, fetched or failed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from imgsim_assets.catalog.image_key import image_key
from imgsim_assets.download.status import OK
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.gc import LOCATION, REFERS_TO_BLOBS
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# A row before it becomes part of a frame: columns that it lacks are null.
Row = dict[str, Any]

SCHEMA: Mapping[str, Any] = {
    "id": pl.String,
    "image": pl.Int32,
    "url": pl.String,
    "status": pl.String,
    "retryable": pl.Boolean,
    "detail": pl.String,
    "attempts": pl.Int32,
    "next_retry_at": pl.Datetime("ms", "UTC"),
    "etag": pl.String,
    "last_modified": pl.String,
    "sha256": pl.String,
    "bytes": pl.Int64,
    "width": pl.Int32,
    "height": pl.Int32,
    "format": pl.String,
    LOCATION: pl.String,
    "is_link": pl.Boolean,
    "fetched_at": pl.Datetime("ms", "UTC"),
    "checked_at": pl.Datetime("ms", "UTC"),
    "revalidation_error": pl.String,
}
# What tells the rows of a version apart.
ROW_KEY = ["id", "image"]
# What recognizes an image across runs: its number changes with the order of its item's images.
IMAGE_KEY = ["id", "url"]
PROPERTIES = {REFERS_TO_BLOBS: True}
_TIMES = ("next_retry_at", "fetched_at", "checked_at")
# Ledgers of earlier versions have one image per item.
_IMAGE = pl.col("image").fill_null(0)
_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)


def ledger_table(store: Store, name: str) -> Table:
    """The ledger of a catalog, keyed by id and image; see SCHEMA."""
    return store.table(f"{name}/images", key=tuple(ROW_KEY))


def empty_ledger() -> pl.DataFrame:
    """A ledger without rows."""
    return pl.DataFrame(schema=SCHEMA)


def with_all_columns(rows: pl.DataFrame) -> pl.DataFrame:
    """A ledger with every column of SCHEMA; columns that its files lack are null, `image` is 0."""
    complete = pl.concat([empty_ledger(), rows], how="diagonal_relaxed").select(list(SCHEMA))
    return complete.with_columns(_IMAGE)


def ledger_frame(rows: list[Row]) -> pl.DataFrame:
    """Rows as a frame with the columns of SCHEMA."""
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA}
    for name in _TIMES:
        columns[name] = [_milliseconds(value) for value in columns[name]]
    return pl.DataFrame(
        {
            name: pl.Series(values, dtype=pl.Int64 if name in _TIMES else SCHEMA[name])
            for name, values in columns.items()
        }
    ).with_columns(_IMAGE, *(pl.col(name).cast(SCHEMA[name]) for name in _TIMES))


def _milliseconds(value: datetime | None) -> int | None:
    """Since the epoch: polars converts integers a hundred times as fast as datetimes."""
    return None if value is None else (value - _EPOCH) // _MILLISECOND


def images(rows: pl.DataFrame) -> pl.DataFrame:
    """The fetched images: the key of each as `id`, and its sha256, sorted by key."""
    return rows.filter(pl.col("status") == OK).select(image_key(), "sha256").sort("id")


def data_version(rows: pl.DataFrame) -> str:
    """A digest of `images`, which is all that later stages depend on."""
    return rows_digest(images(rows))


def utc_now() -> datetime:
    """The current time, to the millisecond that the ledger stores."""
    return datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)
