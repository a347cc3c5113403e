"""The ledger `<name>/images`: one row for every item, with what came of fetching it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from imgsim_assets.download.local import is_local
from imgsim_assets.download.status import BY_SETTINGS, OK, FetchError, is_transient
from imgsim_assets.storage.collection import REFERS_TO_BLOBS
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

SCHEMA: Mapping[str, Any] = {
    "id": pl.String,
    "url": pl.String,
    "status": pl.String,
    "transient": pl.Boolean,
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
    "fetched_at": pl.Datetime("ms", "UTC"),
}
PROPERTIES = {REFERS_TO_BLOBS: True}

# Runs apart, a transient failure waits 5 minutes, then 4 times as long each time. The last
# wait stays under a day, so that a nightly run always tries again.
_FIRST_WAIT = timedelta(minutes=5)
_LONGEST_WAIT = timedelta(hours=20)


def ledger_table(store: Store, name: str) -> Table:
    """`<name>/images`, keyed by id; see SCHEMA."""
    return store.table(f"{name}/images", key="id")


@dataclass(frozen=True)
class Item:
    """Something to fetch; `attempts` counts earlier failures in a row of the same URL."""

    id: str
    url: str
    attempts: int


@dataclass(frozen=True)
class Plan:
    """What a run has to do for one shard: items to fetch, and ids that left the catalogue."""

    fetch: list[Item]
    removed: list[str]


def empty_ledger() -> pl.DataFrame:
    """A ledger without rows."""
    return pl.DataFrame(schema=SCHEMA)


def plan(
    catalogue: pl.DataFrame,
    ledger: pl.DataFrame,
    *,
    now: datetime,
    stamp: Callable[[str], str | None] | None,
    lost: Set[str],
    same_settings: bool = True,
) -> Plan:
    """Compare a shard's catalogue rows (id, url) with its ledger.

    Due are items that are new, whose URL changed, whose transient failure has waited long
    enough, whose local file changed (`stamp(url)`, if given, differs from the etag), whose
    image bytes are `lost` (sha256 values that the store no longer holds), or that failed by
    settings which are no longer the same.
    """
    joined = catalogue.select("id", "url").join(
        ledger.select(
            "id",
            pl.col("url").alias("known_url"),
            "status",
            "transient",
            "attempts",
            "next_retry_at",
            "etag",
            "sha256",
        ),
        on="id",
        how="left",
        maintain_order="left",
    )
    fetch = []
    for row in joined.iter_rows(named=True):
        same = row["known_url"] == row["url"]
        stale = not same_settings and row["status"] in BY_SETTINGS
        if not same or stale or _is_due(row, now, stamp, lost):
            fetch.append(Item(row["id"], row["url"], row["attempts"] if same else 0))
    removed = ledger.join(catalogue, on="id", how="anti")["id"].sort().to_list()
    return Plan(fetch, removed)


def _is_due(
    row: Mapping[str, Any],
    now: datetime,
    stamp: Callable[[str], str | None] | None,
    lost: Set[str],
) -> bool:
    if row["sha256"] in lost:
        return True
    # A missing or blocked file has neither an etag nor a stamp.
    if stamp is not None and is_local(row["url"]) and row["etag"] != stamp(row["url"]):
        return True
    return bool(row["transient"]) and row["next_retry_at"] <= now


def failed(item: Item, error: FetchError, now: datetime) -> dict[str, Any]:
    """The ledger row of a failure; a later run waits at least as long as the server asked."""
    transient = is_transient(error.status)
    attempts = item.attempts + 1
    wait = max(retry_wait(attempts), timedelta(seconds=error.retry_after or 0))
    return {
        "id": item.id,
        "url": item.url,
        "status": error.status,
        "transient": transient,
        "detail": error.detail[:500],
        "attempts": attempts,
        "next_retry_at": now + wait if transient else None,
        "etag": error.etag,
        "fetched_at": now,
    }


def retry_wait(attempts: int) -> timedelta:
    """How long a later run waits before it tries again, after so many failures in a row."""
    growth: int = 4 ** min(attempts - 1, 8)
    return min(_FIRST_WAIT * growth, _LONGEST_WAIT)


def as_rows(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Ledger rows as a frame; what a row does not say is null."""
    complete = [{name: row.get(name) for name in SCHEMA} for row in rows]
    return pl.DataFrame(complete, schema=SCHEMA)


def data_version(rows: pl.DataFrame) -> str:
    """A digest of which item has which image: all that later stages depend on."""
    return rows_digest(rows.filter(pl.col("status") == OK).sort("id").select("id", "sha256"))


def utc_now() -> datetime:
    """The present moment, to the millisecond that the ledger keeps."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
