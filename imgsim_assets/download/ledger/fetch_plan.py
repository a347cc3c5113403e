"""What a run has to fetch: the images of a shard's items compared with its ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import polars as pl

from imgsim_assets.download.files.image_folder import is_local
from imgsim_assets.download.ledger.table import IMAGE_KEY, SCHEMA
from imgsim_assets.download.settings import Retry
from imgsim_assets.download.status import DEPENDS_ON_SETTINGS, OK
from imgsim_assets.storage.gc import LOCATION

# Rows that become Python objects at a time.
_SLICE_ROWS = 8192
# The columns of the ledger that do not decide whether an image is due.
_UNUSED = ("detail", "is_link", "last_modified", "bytes", "width", "height", "format", "fetched_at")
# The columns of `DueImages` for an image that was never requested.
_FIRST_ATTEMPT = {"attempts": pl.lit(0, pl.Int32), "cached": pl.lit(None, pl.UInt32)}


class DueImage(NamedTuple):
    """One image of an item to fetch.

    `attempts` counts the consecutive failures of its url. `cached` is the ledger row of an image
    that is only revalidated because of its age. `image` is its number within the item.
    """

    id: str
    url: str
    attempts: int
    cached: Mapping[str, Any] | None = None
    image: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What recognizes the image in the ledger."""
        return self.id, self.url

    def __str__(self) -> str:
        return f"{self.id}, image {self.image}" if self.image else self.id


class DueImages:
    """A sequence of `DueImage` that makes each on access: a shard may have millions.

    `rows` has the columns id, url, attempts, cached and image. `cached` is null, or a row number
    in the frame `cached`, which has the ledger's SCHEMA.
    """

    def __init__(self, rows: pl.DataFrame, cached: pl.DataFrame) -> None:
        self._rows = rows.select("id", "url", "attempts", "cached", "image").rechunk()
        self._cached = cached

    def __len__(self) -> int:
        return self._rows.height

    def __getitem__(self, number: int) -> DueImage:
        return self._image(*self._rows.row(number))

    def _image(
        self, item: str, url: str, attempts: int, cached: int | None, image: int
    ) -> DueImage:
        row = self._cached.row(cached, named=True) if cached is not None else None
        return DueImage(item, url, attempts, row, image)

    def take(self, numbers: Sequence[int]) -> list[DueImage]:
        """Several images, which is faster than one after the other."""
        return [self._image(*row) for row in self._rows[numbers].iter_rows()]

    def urls(self) -> Iterator[str]:
        """The urls of the images, in order."""
        for rows in self._rows.select("url").iter_slices(_SLICE_ROWS):
            yield from rows["url"].to_list()

    def without(self, requested: pl.DataFrame) -> DueImages:
        """The images that are not in `requested` (id, url)."""
        rows = self._rows.join(requested, on=IMAGE_KEY, how="anti", maintain_order="left")
        return DueImages(rows, self._cached)

    def none(self) -> DueImages:
        """No images."""
        return DueImages(self._rows.clear(), self._cached.clear())


@dataclass(frozen=True)
class FetchPlan:
    """What a run has to do for one shard.

    Attributes:
        images: the images to fetch.
        removed_ids: items that left the catalog.
        removed_images: how many images the catalog has no more, those of `removed_ids` included.
        is_renumbered: whether images that stay have another number within their item now.
        has_leftovers: whether the ledger has rows of images that are in the catalog no more.
        replaced: sha256 (hex) of images outside of the store whose path names another image now,
            or none.
    """

    images: DueImages
    removed_ids: Sequence[str] = ()
    removed_images: int = 0
    is_renumbered: bool = False
    has_leftovers: bool = False
    replaced: Sequence[str] = ()

    @property
    def changes_rows(self) -> bool:
        """Whether rows of the ledger have to change although no image is fetched."""
        return self.is_renumbered or self.has_leftovers

    def without_images(self) -> FetchPlan:
        """The plan after its images were fetched, which frees them."""
        return replace(self, images=self.images.none())


def plan_fetches(
    images: pl.DataFrame,
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
    """Compare the images (id, image, url) of a shard's items with its ledger.

    Images are recognized by id and url, whatever their number. Due are images without a row;
    whose `file_version` differs from the etag (None without a folder); that are to be copied into
    the store or to stay where they lie, by `location`, and are not; whose sha256 is in
    `missing_blobs`; that were last confirmed longer than `revalidate_age` ago (with conditions
    only where the `blob_exists`, because a 304 would confirm nothing else); and failures: all of
    them, the retryable ones whose wait is over and those that depend on settings that changed, or
    none, as `retry` says.
    """
    if not ledger.height:  # without a second copy of the images
        return FetchPlan(DueImages(images.with_columns(**_FIRST_ATTEMPT), ledger))
    matched = _with_rows(images, ledger)
    existing = matched.filter(pl.col("row").is_not_null())
    joined = pl.concat([existing, _deciding_columns(ledger, existing["row"])], how="horizontal")
    # A clock that was set back must not delay retries until it has caught up.
    is_from_future = (ledger["fetched_at"][existing["row"]] > now).fill_null(value=False)
    joined = joined.with_columns(is_from_future=is_from_future)
    is_missing = pl.col("sha256").is_in(sorted(missing_blobs)).fill_null(value=False)
    again = _failure_is_due(now, retry, same_settings) | is_missing
    revalidate = ~again & _revalidation_is_due(now, retry, revalidate_age)
    changed = _changed_files(joined, file_version) | _moved_images(joined, location)
    replaced = _replaced_images(ledger, images, joined, changed)
    changed |= joined.select(
        pl.col(LOCATION).is_not_null() & pl.col("sha256").is_in(replaced.implode())
    ).to_series()
    due = (
        joined.lazy()
        .with_columns(due=again | changed, revalidate=revalidate)
        .filter(pl.col("due") | pl.col("revalidate"))
        .select("at", "id", "image", "url", "row", "due", "attempts", "sha256")
        .collect()
    )
    due, cached = _with_cached_rows(due, ledger, blob_exists)
    columns = ["at", "id", "image", "url", "attempts", "cached"]
    new = matched.filter(pl.col("row").is_null()).with_columns(**_FIRST_ATTEMPT)
    if due.height:
        new = new.select(columns).merge_sorted(due.select(columns), key="at")
    has_leftovers = existing.height < ledger.height
    removed = ledger.join(images, on="id", how="anti")["id"] if has_leftovers else ledger["id"][:0]
    gone = ledger.join(images, on=["id", "image"], how="anti").height if has_leftovers else 0
    return FetchPlan(
        DueImages(new, cached),
        removed_ids=removed.unique().sort().to_list(),
        removed_images=gone,
        is_renumbered=joined.select((pl.col("image") != pl.col("ledger_image")).any()).item(),
        has_leftovers=has_leftovers,
        replaced=replaced.to_list(),
    )


def _with_rows(images: pl.DataFrame, ledger: pl.DataFrame) -> pl.DataFrame:
    """The images with the number of their ledger row, null for a new one, and their own as `at`.

    A new image costs a number, not a row of nulls.
    """
    if ledger.select(images.columns).equals(images):
        return images.with_row_index("row").with_row_index("at")
    rows = ledger.select(IMAGE_KEY).with_row_index("row")
    matched = images.join(rows, on=IMAGE_KEY, how="left", maintain_order="left_right")
    if matched.height > images.height:  # two runs at once gave an image two numbers
        matched = matched.unique(IMAGE_KEY, keep="last", maintain_order=True)
    return matched.with_row_index("at")


def _deciding_columns(ledger: pl.DataFrame, rows: pl.Series) -> pl.DataFrame:
    return ledger.drop(*IMAGE_KEY, *_UNUSED)[rows].rename({"image": "ledger_image"})


def _with_cached_rows(
    due: pl.DataFrame, ledger: pl.DataFrame, blob_exists: Callable[[list[str]], list[bool]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The due images with the number of their row among the cached ones, and these rows.

    They are the rows of images that are only revalidated and that the store has.
    """
    revalidated = due.filter(~pl.col("due"))
    if not revalidated.height:
        return due.with_columns(cached=_FIRST_ATTEMPT["cached"]), ledger.clear()
    exists = pl.Series(blob_exists(revalidated["sha256"].to_list()), dtype=pl.Boolean)
    cached = revalidated.filter(exists).with_row_index("cached")
    rows = ledger.select(list(SCHEMA))[cached["row"]].with_columns(cached["image"])
    numbers = cached.select("at", "cached")
    return due.join(numbers, on="at", how="left", maintain_order="left"), rows


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
    numbers = pl.int_range(joined.height, dtype=pl.UInt32, eager=True)
    return numbers.is_in(pl.Series(moved, dtype=pl.UInt32).implode())


def _replaced_images(
    ledger: pl.DataFrame, images: pl.DataFrame, joined: pl.DataFrame, changed: pl.Series
) -> pl.Series:
    """The images outside of the store whose row is gone, or whose file has changed.

    The store may refer to them by that path only. Other rows with the same image are read again.
    """
    is_in_place = pl.col(LOCATION).is_not_null()
    gone = ledger.filter(is_in_place).join(images, on=IMAGE_KEY, how="anti")["sha256"]
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
