"""The ledger `<name>/images`: one row for every item, with what came of fetching it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import polars as pl

from imgsim_assets.download.files.image_folder import is_local
from imgsim_assets.download.settings import Retry
from imgsim_assets.download.status import (
    BY_SETTINGS,
    OK,
    SKIPPED_HOST,
    FetchError,
    is_retryable,
)
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.gc import REFERS_TO_BLOBS
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

SCHEMA: Mapping[str, Any] = {
    "id": pl.String,
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
    "fetched_at": pl.Datetime("ms", "UTC"),
    "checked_at": pl.Datetime("ms", "UTC"),
    "revalidation_error": pl.String,
}
_MOMENTS = ("next_retry_at", "fetched_at", "checked_at")
_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)
PROPERTIES = {REFERS_TO_BLOBS: True}

# Runs apart, a retryable failure waits 5 minutes, then 4 times as long each time. The last
# wait stays under a day, so that a nightly run always tries again.
_FIRST_WAIT = timedelta(minutes=5)
_LONGEST_WAIT = timedelta(hours=20)
# Rows that are Python objects at a time.
_AT_ONCE = 8192
# What of a ledger decides whether an item is due.
_DECISIVE = (
    "id",
    "url",
    "status",
    "retryable",
    "attempts",
    "next_retry_at",
    "etag",
    "sha256",
    "checked_at",
    "revalidation_error",
)

# What the items to fetch say of one that was never tried.
_FIRST_TRY = {"attempts": pl.lit(0, pl.Int32), "held": pl.lit(None, pl.UInt32)}


def ledger_table(store: Store, name: str) -> Table:
    """`<name>/images`, keyed by id; see SCHEMA."""
    return store.table(f"{name}/images", key="id")


class Item(NamedTuple):
    """Something to fetch; `attempts` counts earlier failures in a row of the same URL.

    `held` is the ledger's row of a good image that is only asked for again because of its age.
    """

    id: str
    url: str
    attempts: int
    held: Mapping[str, Any] | None = None


class Items:
    """Items to fetch, each made when it is asked for: a shard may have millions.

    `rows` has the columns id, url, attempts and held, which is null or the number of the item's
    row in `held`, of the ledger's SCHEMA.
    """

    def __init__(self, rows: pl.DataFrame, held: pl.DataFrame) -> None:
        self._rows = rows.rechunk()
        self._held = held

    def __len__(self) -> int:
        return self._rows.height

    def __getitem__(self, number: int) -> Item:
        item, url, attempts, held = self._rows.row(number)
        return Item(
            item, url, attempts, self._held.row(held, named=True) if held is not None else None
        )

    def urls(self) -> Iterator[str]:
        """The items' urls in their order."""
        for piece in self._rows.select("url").iter_slices(_AT_ONCE):
            yield from piece["url"].to_list()

    def none(self) -> Items:
        """No items."""
        return Items(self._rows.clear(), self._held.clear())

    def without(self, tried: pl.DataFrame) -> Items:
        """Those that are not among `tried` (id, url)."""
        rows = self._rows.join(tried, on=["id", "url"], how="anti", maintain_order="left")
        return Items(rows, self._held)


@dataclass(frozen=True)
class Plan:
    """What a run has to do for one shard: items to fetch, and ids that left the catalog."""

    fetch: Items
    removed: list[str]

    def done(self) -> Plan:
        """The plan without what there was to fetch."""
        return replace(self, fetch=self.fetch.none())


def empty_ledger() -> pl.DataFrame:
    """A ledger without rows."""
    return pl.DataFrame(schema=SCHEMA)


def with_all_columns(rows: pl.DataFrame) -> pl.DataFrame:
    """A ledger with every column of SCHEMA: null in those that it was written without."""
    return pl.concat([empty_ledger(), rows], how="diagonal_relaxed").select(list(SCHEMA))


def plan(
    catalog: pl.DataFrame,
    ledger: pl.DataFrame,
    *,
    now: datetime,
    stamp: Callable[[str], str | None] | None,
    lost: Set[str],
    holds: Callable[[list[str]], list[bool]],
    same_settings: bool = True,
    retry: Retry = "retryable",
    refresh_age: timedelta | None = None,
) -> Plan:
    """Compare a shard's catalog rows (id, url) with its ledger.

    Due are items that are new, whose URL changed, whose local file changed (`stamp(url)`, if
    given, differs from the etag), whose image bytes are `lost` (sha256 values that the store no
    longer holds), whose good image was last confirmed longer than `refresh_age` ago (with
    conditions only when the store `holds` its bytes, or a 304 would confirm nothing), and
    failures: with `retry="retryable"` those that have waited long enough and those by settings
    that are no longer the same, with "all" every one, with "none" none.
    """
    if not ledger.height:  # the list as it is, not a second one beside it
        everything = catalog.select("id", "url", **_FIRST_TRY)
        return Plan(Items(everything, ledger), [])
    # The ledger is joined by its rows' numbers: a new item costs a number, not a row of nulls.
    placed = (
        catalog.select("id", "url")
        .join(ledger.select("id").with_row_index("row"), on="id", how="left", maintain_order="left")
        .with_row_index("at")
    )
    new = placed.filter(pl.col("row").is_null())
    known = placed.filter(pl.col("row").is_not_null())
    rows = ledger.select(_DECISIVE).rename({"url": "known_url"}).drop("id")[known["row"]]
    joined = pl.concat([known.select("at", "id", "url"), rows], how="horizontal")
    same = pl.col("url").eq_missing(pl.col("known_url"))
    is_lost = pl.col("sha256").is_in(sorted(lost)).fill_null(value=False)
    again = same & (_failure_is_due(now, retry, same_settings) | is_lost)
    refresh = same & ~again & _refresh_is_due(now, retry, refresh_age)
    changed = _file_changed(joined, stamp)
    judged = joined.lazy().with_columns(same=same, due=~same | again | changed, refresh=refresh)
    chosen = (
        judged.filter(pl.col("due") | pl.col("refresh"))
        .select("at", "id", "url", "same", "due", "attempts", "sha256")
        .collect()
    )
    held = _held(chosen.filter(~pl.col("due")), ledger, holds)
    chosen_again = chosen.select(
        "at",
        "id",
        "url",
        attempts=pl.when("same").then("attempts").otherwise(0),
    ).join(held.select("id").with_row_index("held"), on="id", how="left", maintain_order="left")
    first = new.select("at", "id", "url", **_FIRST_TRY)
    fetch = first.merge_sorted(chosen_again, key="at") if chosen_again.height else first
    has_removed = known.height < ledger.height
    removed = ledger.join(catalog, on="id", how="anti")["id"].sort() if has_removed else ()
    return Plan(Items(fetch.drop("at"), held), list(removed))


def _held(
    refreshed: pl.DataFrame, ledger: pl.DataFrame, holds: Callable[[list[str]], list[bool]]
) -> pl.DataFrame:
    """The ledger's rows of the images that are only to be refreshed, and are in the store."""
    if not refreshed.height:
        return ledger.clear()
    there = refreshed.filter(pl.Series(holds(refreshed["sha256"].to_list()), dtype=pl.Boolean))
    return ledger.select(list(SCHEMA)).join(there, on="id", how="semi")


def _failure_is_due(now: datetime, retry: Retry, same_settings: bool) -> pl.Expr:
    is_failure = pl.col("status").ne(OK).fill_null(value=False)
    if retry != "retryable":
        return is_failure & (retry == "all")
    due = (pl.col("retryable") & (pl.col("next_retry_at") <= now)).fill_null(value=False)
    stale = pl.col("status").is_in(list(BY_SETTINGS)) & (not same_settings)
    return is_failure & (due | stale)


def _refresh_is_due(now: datetime, retry: Retry, age: timedelta | None) -> pl.Expr:
    """Good web images; one whose last refresh failed has its own time to wait."""
    is_good = pl.col("status").eq(OK) & _is_remote("url")
    failed = pl.col("revalidation_error").is_not_null()
    due = pl.lit(value=False)
    if age is not None:
        has_waited = pl.col("next_retry_at").is_null() | (pl.col("next_retry_at") <= now)
        due = (pl.col("checked_at") + age <= now) & has_waited & ~(failed & (retry == "none"))
    return is_good & (due | (failed & (retry == "all")))


def _is_remote(url: str) -> pl.Expr:
    return pl.col(url).str.contains(r"^(?i)[a-z][a-z0-9+.-]*://") & ~pl.col(url).str.contains(
        r"^(?i)file://"
    )


def _file_changed(joined: pl.DataFrame, stamp: Callable[[str], str | None] | None) -> pl.Series:
    """Which rows are local files that are not what they were."""
    if stamp is None:
        return pl.repeat(value=False, n=joined.height, eager=True)
    is_file = ~_is_remote("url")
    if not joined.select(is_file.any()).item():
        return pl.repeat(value=False, n=joined.height, eager=True)
    pairs = joined.select("url", "etag").iter_rows()
    return pl.Series(
        [is_local(url) and etag != stamp(url) for url, etag in pairs], dtype=pl.Boolean
    )


def confirmed(item: Item, now: datetime) -> dict[str, Any]:
    """The ledger row of an image that is still the newest version."""
    return {
        **(item.held or {}),
        "detail": None,
        "attempts": 0,
        "next_retry_at": None,
        "checked_at": now,
        "revalidation_error": None,
    }


def failed(item: Item, error: FetchError, now: datetime) -> dict[str, Any]:
    """The ledger row of a failure; a later run waits at least as long as the server asked.

    An item that was not tried has not failed once more. One whose good image is held keeps it,
    and the row says that it could not be refreshed.
    """
    retryable = is_retryable(error.status)
    attempts = item.attempts + (error.status != SKIPPED_HOST)
    wait = max(retry_wait(attempts), timedelta(seconds=error.retry_after or 0))
    if item.held is not None:
        return {
            **item.held,
            "detail": error.detail[:500],
            "attempts": attempts,
            "next_retry_at": now + (wait if retryable else _LONGEST_WAIT),
            "revalidation_error": error.status,
        }
    return {
        "id": item.id,
        "url": item.url,
        "status": error.status,
        "retryable": retryable,
        "detail": error.detail[:500],
        "attempts": attempts,
        "next_retry_at": now + wait if retryable else None,
        "etag": error.etag,
        "fetched_at": now,
    }


def retry_wait(attempts: int) -> timedelta:
    """How long a later run waits before it tries again, after so many failures in a row."""
    growth: int = 4 ** min(max(attempts - 1, 0), 8)
    return min(_FIRST_WAIT * growth, _LONGEST_WAIT)


def ledger_frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Ledger rows as a frame; what a row does not say is null."""
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA}
    for name in _MOMENTS:
        columns[name] = [_milliseconds(moment) for moment in columns[name]]
    return pl.DataFrame(
        {
            name: pl.Series(values, dtype=pl.Int64 if name in _MOMENTS else SCHEMA[name])
            for name, values in columns.items()
        }
    ).cast({name: SCHEMA[name] for name in _MOMENTS})


def _milliseconds(moment: datetime | None) -> int | None:
    """Since the epoch: polars takes whole numbers in a hundredth of the time of datetimes."""
    return None if moment is None else (moment - _EPOCH) // _MILLISECOND


def data_version(rows: pl.DataFrame) -> str:
    """A digest of which item has which image: all that later stages depend on."""
    return rows_digest(images(rows))


def images(rows: pl.DataFrame) -> pl.DataFrame:
    """Which item has which image: id and sha256, sorted by id."""
    return rows.filter(pl.col("status") == OK).select("id", "sha256").sort("id")


def utc_now() -> datetime:
    """The present moment, to the millisecond that the ledger keeps."""
    return datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)
