"""What a run has to fetch: a shard's items compared with its ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import polars as pl

from imgsim_assets.download.files.image_folder import is_local
from imgsim_assets.download.ledger.table import SCHEMA
from imgsim_assets.download.settings import Retry
from imgsim_assets.download.status import DEPENDS_ON_SETTINGS, OK
from imgsim_assets.storage.gc import LOCATION

# Rows that become Python objects at a time.
_SLICE_ROWS = 8192
# The columns of the ledger that do not decide whether an item is due.
_UNUSED = (
    "image",
    "detail",
    "is_link",
    "last_modified",
    "bytes",
    "width",
    "height",
    "format",
    "fetched_at",
)
# The columns of `FetchItems` for an item that was never requested.
_FIRST_ATTEMPT = {"attempts": pl.lit(0, pl.Int32), "cached": pl.lit(None, pl.UInt32)}


class FetchItem(NamedTuple):
    """One item to fetch.

    `attempts` counts the consecutive failures of its url. `cached` is the ledger row of an image
    that is only revalidated because of its age.
    """

    id: str
    url: str
    attempts: int
    cached: Mapping[str, Any] | None = None


class FetchItems:
    """A sequence of `FetchItem` that makes each on access: a shard may have millions.

    `rows` has the columns id, url, attempts and cached: null, or a row number in the frame
    `cached`, which has the ledger's SCHEMA.
    """

    def __init__(self, rows: pl.DataFrame, cached: pl.DataFrame) -> None:
        self._rows = rows.rechunk()
        self._cached = cached

    def __len__(self) -> int:
        return self._rows.height

    def __getitem__(self, number: int) -> FetchItem:
        item, url, attempts, cached = self._rows.row(number)
        row = self._cached.row(cached, named=True) if cached is not None else None
        return FetchItem(item, url, attempts, row)

    def take(self, numbers: Sequence[int]) -> list[FetchItem]:
        """Several items, which is faster than one after the other."""
        rows = self._rows[numbers].iter_rows()
        return [
            FetchItem(item, url, attempts, self._cached.row(cached, named=True))
            if cached is not None
            else FetchItem(item, url, attempts)
            for item, url, attempts, cached in rows
        ]

    def urls(self) -> Iterator[str]:
        """The urls of the items, in order."""
        for rows in self._rows.select("url").iter_slices(_SLICE_ROWS):
            yield from rows["url"].to_list()

    def without(self, requested: pl.DataFrame) -> FetchItems:
        """The items that are not in `requested` (id, url)."""
        rows = self._rows.join(requested, on=["id", "url"], how="anti", maintain_order="left")
        return FetchItems(rows, self._cached)

    def none(self) -> FetchItems:
        """No items."""
        return FetchItems(self._rows.clear(), self._cached.clear())


@dataclass(frozen=True)
class FetchPlan:
    """What a run has to do for one shard: items to fetch, and ids that left the catalog.

    `replaced` are the sha256 (hex) of images outside of the store whose path names another image
    now, or none.
    """

    items: FetchItems
    removed_ids: list[str]
    replaced: Sequence[str] = ()

    def without_items(self) -> FetchPlan:
        """The plan after its items were fetched, which frees them."""
        return FetchPlan(self.items.none(), self.removed_ids, self.replaced)


def plan_fetches(
    catalog: pl.DataFrame,
    ledger: pl.DataFrame,
    *,
    now: datetime,
    file_version: Callable[[str], str | None] | None,
    missing_blobs: Set[str],
    blob_exists: Callable[[list[str]], list[bool]],
    location: Callable[[str], str | None] = lambda _: None,
    same_settings: bool = True,
    retry: Retry = "retryable",
    revalidate_age: timedelta | None = None,
) -> FetchPlan:
    """Compare a shard's items (id, url) with its ledger.

    Due are items that are new; whose url changed; whose `file_version` differs from the etag
    (None without a folder); whose image is to be copied into the store or to stay where it lies,
    by `location`, and is not; whose sha256 is in `missing_blobs`; whose image was last confirmed
    longer than `revalidate_age` ago (with conditions only where the `blob_exists`, because a 304
    would confirm nothing else); and failures: all of them, the retryable ones whose wait is over
    and those that depend on settings that changed, or none, as `retry` says.
    """
    if not ledger.height:  # without a second copy of the items
        new_items = catalog.select("id", "url", **_FIRST_ATTEMPT)
        return FetchPlan(FetchItems(new_items, ledger), [])
    # The ledger is joined by row number: a new item costs a number, not a row of nulls.
    numbered = (
        catalog.select("id", "url")
        .join(ledger.select("id").with_row_index("row"), on="id", how="left", maintain_order="left")
        .with_row_index("at")
    )
    new = numbered.filter(pl.col("row").is_null())
    existing = numbered.filter(pl.col("row").is_not_null())
    rows = ledger.drop("id", *_UNUSED).rename({"url": "ledger_url"})[existing["row"]]
    joined = pl.concat([existing.select("at", "id", "url"), rows], how="horizontal")
    # A clock that was set back must not delay retries until it has caught up.
    is_from_future = (ledger["fetched_at"][existing["row"]] > now).fill_null(value=False)
    joined = joined.with_columns(is_from_future=is_from_future)
    same = pl.col("url").eq_missing(pl.col("ledger_url"))
    is_missing = pl.col("sha256").is_in(sorted(missing_blobs)).fill_null(value=False)
    again = same & (_failure_is_due(now, retry, same_settings) | is_missing)
    revalidate = same & ~again & _revalidation_is_due(now, retry, revalidate_age)
    changed = _changed_files(joined, file_version) | _moved_images(joined, location)
    replaced = _replaced_images(ledger, catalog, joined, changed)
    changed |= joined.select(
        pl.col(LOCATION).is_not_null() & pl.col("sha256").is_in(replaced.implode())
    ).to_series()
    due_rows = (
        joined.lazy()
        .with_columns(same=same, due=~same | again | changed, revalidate=revalidate)
        .filter(pl.col("due") | pl.col("revalidate"))
        .select("at", "id", "url", "same", "due", "attempts", "sha256")
        .collect()
    )
    cached = _cached_rows(due_rows.filter(~pl.col("due")), ledger, blob_exists)
    due_items = due_rows.select(
        "at", "id", "url", attempts=pl.when("same").then("attempts").otherwise(0)
    ).join(cached.select("id").with_row_index("cached"), on="id", how="left", maintain_order="left")
    items = new.select("at", "id", "url", **_FIRST_ATTEMPT)
    if due_items.height:
        items = items.merge_sorted(due_items, key="at")
    has_removed = existing.height < ledger.height
    removed = ledger.join(catalog, on="id", how="anti")["id"].sort() if has_removed else ()
    return FetchPlan(FetchItems(items.drop("at"), cached), list(removed), replaced.to_list())


def _cached_rows(
    rows: pl.DataFrame, ledger: pl.DataFrame, blob_exists: Callable[[list[str]], list[bool]]
) -> pl.DataFrame:
    """The ledger rows of images that are only revalidated and that the store has."""
    if not rows.height:
        return ledger.clear()
    exists = pl.Series(blob_exists(rows["sha256"].to_list()), dtype=pl.Boolean)
    return ledger.select(list(SCHEMA)).join(rows.filter(exists), on="id", how="semi")


def _failure_is_due(now: datetime, retry: Retry, same_settings: bool) -> pl.Expr:
    is_failure = pl.col("status").ne(OK).fill_null(value=False)
    if retry != "retryable":
        return is_failure & (retry == "all")
    has_waited = (pl.col("next_retry_at") <= now) | pl.col("is_from_future")
    due = (pl.col("retryable") & has_waited).fill_null(value=False)
    stale = pl.col("status").is_in(list(DEPENDS_ON_SETTINGS)) & (not same_settings)
    return is_failure & (due | stale)


def _revalidation_is_due(now: datetime, retry: Retry, age: timedelta | None) -> pl.Expr:
    """For good web images; after a failed revalidation the wait of the failure counts as well."""
    is_good = pl.col("status").eq(OK) & _is_remote("url")
    failed = pl.col("revalidation_error").is_not_null()
    due = pl.lit(value=False)
    if age is not None:
        has_waited = pl.col("next_retry_at").is_null() | (pl.col("next_retry_at") <= now)
        is_old = (pl.col("checked_at") + age <= now) | (pl.col("checked_at") > now)
        due = is_old & has_waited & ~(failed & (retry == "none"))
    return is_good & (due | (failed & (retry == "all")))


def _is_remote(url: str) -> pl.Expr:
    return pl.col(url).str.contains(r"^(?i)[a-z][a-z0-9+.-]*://") & ~pl.col(url).str.contains(
        r"^(?i)file://"
    )


def _moved_images(joined: pl.DataFrame, location: Callable[[str], str | None]) -> pl.Series:
    """Whether each row's image is to be in the store and is not, or the other way round."""
    is_file = ~pl.col("url").str.contains("^(?i)https?://") & (pl.col("status") == OK)
    files = joined.with_row_index("number").filter(is_file)
    moved = [
        number
        for number, url, stored in files.select("number", "url", LOCATION).iter_rows()
        if location(url) != stored
    ]
    return pl.Series(range(joined.height), dtype=pl.UInt32).is_in(pl.Series(moved, dtype=pl.UInt32))


def _replaced_images(
    ledger: pl.DataFrame, catalog: pl.DataFrame, joined: pl.DataFrame, changed: pl.Series
) -> pl.Series:
    """The images outside of the store whose row is gone, or whose file has changed.

    The store may refer to them by that path only. Other rows with the same image are read again.
    """
    is_in_place = pl.col(LOCATION).is_not_null()
    gone = ledger.filter(is_in_place).join(catalog, on="id", how="anti")["sha256"]
    other = joined.filter(changed).filter(is_in_place)["sha256"]
    return pl.concat([gone, other]).drop_nulls().unique().sort()


def _changed_files(
    joined: pl.DataFrame, file_version: Callable[[str], str | None] | None
) -> pl.Series:
    """Whether each row is a local file whose version differs from the ledger's etag."""
    if file_version is None or not joined.select((~_is_remote("url")).any()).item():
        return pl.repeat(value=False, n=joined.height, eager=True)
    pairs = joined.select("url", "etag").iter_rows()
    return pl.Series(
        [is_local(url) and etag != file_version(url) for url, etag in pairs], dtype=pl.Boolean
    )
