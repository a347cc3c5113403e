"""Reads and counts the ledger rows of one shard, in parts that fit into memory."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator

import polars as pl

from imgsim_assets.download.ledger.table import (
    IMAGE_KEY,
    ROW_KEY,
    empty_ledger,
    images,
    with_all_columns,
)
from imgsim_assets.download.status import OK
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.progress import Log
from imgsim_assets.storage.commit import Commit, DataFile
from imgsim_assets.storage.digest import RowsDigest
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.table import Table

# A ledger is read by ranges of ids: a minimum of rows in each, and a maximum of ranges.
_MIN_RANGE_ROWS = 4096
_MAX_RANGES = 64


class LedgerSummary:
    """Counts and data version of rows that are added in parts, sorted by id and image.

    All rows of an item are in one part. `statuses` counts the rows, each of an image;
    `revalidation_errors` counts the good images whose revalidation failed. `items` have a row, and
    `usable_items` an image that was fetched.
    """

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.revalidation_errors: Counter[str] = Counter()
        self.items = self.usable_items = 0
        self._images = RowsDigest(2)

    def add(self, rows: pl.DataFrame) -> None:
        """Add the next rows."""
        self.statuses.update(dict(rows["status"].value_counts().iter_rows()))
        errors = rows["revalidation_error"].drop_nulls()
        self.revalidation_errors.update(dict(errors.value_counts().iter_rows()))
        self.items += rows["id"].n_unique()
        self.usable_items += rows.filter(pl.col("status") == OK)["id"].n_unique()
        self._images.update(images(rows))

    def add_all(self, parts: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Pass the parts through, and add each."""
        for rows in parts:
            self.add(rows)
            yield rows

    @property
    def counts(self) -> dict[str, int]:
        """The totals, by the names of `counts.count_images`."""
        ok = self.statuses.get(OK, 0)
        named = {"ok": ok, "items": self.items, "usable_items": self.usable_items}
        return {"images": self.images, **named}

    @property
    def images(self) -> int:
        """The number of rows."""
        return self.statuses.total()

    @property
    def data_version(self) -> str:
        """`table.data_version` of all rows."""
        return self._images.hexdigest()


class ShardLedger:
    """The rows of one shard in a ledger.

    A corrupt file is reported to `on_corrupt` and counts as absent, so that its items are fetched
    again.
    """

    def __init__(self, table: Table, shard: Shard, on_corrupt: Log) -> None:
        self.table = table
        self.shard = shard
        self._on_corrupt = on_corrupt

    def files(self, commit: Commit | None) -> list[DataFile]:
        """The files that may hold rows of the shard."""
        return commit.row_files_for_shard(self.shard) if commit is not None else []

    def read(self, commit: Commit | None) -> pl.DataFrame:
        """All rows of the shard, with every column."""
        if commit is None:
            return empty_ledger()
        rows = self.table.read(commit, shard=self.shard, on_corrupt=self._on_corrupt)
        return with_all_columns(rows)

    def read_file(self, file: DataFile) -> pl.DataFrame:
        """The rows of one file; none when it is corrupt."""
        try:
            return with_all_columns(self.table.read_file(file))
        except CorruptFileError as error:
            self._on_corrupt(str(error))
            return empty_ledger()

    def read_ids(self, commit: Commit) -> pl.DataFrame:
        """The ids of the shard's rows, each once."""
        ids = self.table.read(commit, shard=self.shard, columns=["id"], on_corrupt=self._on_corrupt)
        return with_all_columns(ids).select("id").unique()

    def latest_rows(
        self, commit: Commit | None, ids: pl.DataFrame, new: pl.DataFrame
    ) -> Iterator[pl.DataFrame]:
        """The rows of `ids`, in parts sorted by id and image; `new` replace those of the commit."""
        for part, existing, added in self._parts(commit, ids, new):
            rows = _dedupe(pl.concat([existing, added]), ROW_KEY)
            yield rows.filter(pl.col("id").is_in(part["id"].unique().implode())).sort(ROW_KEY)

    def numbered_rows(
        self, commit: Commit | None, images: pl.DataFrame, new: pl.DataFrame
    ) -> Iterator[pl.DataFrame]:
        """The rows of `images` (id, image, url), numbered as there, in parts as of `latest_rows`.

        An image that has no row yet leaves the row that has its number in place.
        """
        for part, existing, added in self._parts(commit, images, new):
            rows = _dedupe(pl.concat([_dedupe(existing, ROW_KEY), added]), IMAGE_KEY)
            yield _numbered(rows, part).sort(ROW_KEY)

    def _parts(
        self, commit: Commit | None, ids: pl.DataFrame, new: pl.DataFrame
    ) -> Iterator[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]]:
        """Parts of `ids`, with the rows of the commit and the new rows in each one's range."""
        with contextlib.ExitStack() as files:
            read = None
            if commit is not None:
                reader = self.table.open_range_reader(
                    commit, shard=self.shard, on_corrupt=self._on_corrupt
                )
                read = files.enter_context(reader)
            for part in _ranges(ids):
                first, last = (part["id"][0], part["id"][-1]) if part.height else ("", "")
                in_range = pl.col("id").is_between(pl.lit(first), pl.lit(last))
                rows = with_all_columns(read((first, last))) if read is not None else empty_ledger()
                yield part, rows, new.filter(in_range)

    def summarize(self, commit: Commit) -> LedgerSummary:
        """Counts and data version of the shard."""
        summary = LedgerSummary()
        for rows in self.latest_rows(commit, self.read_ids(commit), empty_ledger()):
            summary.add(rows)
        return summary

    def limits(self, commit: Commit | None) -> set[str | None]:
        """Digests of the limits under which the rows were fetched; None for unknown ones.

        There are several after an interrupted run, and after the number of shards changed.
        """
        return {file.metadata.get("limits") for file in self.files(commit)}


def _ranges(ids: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The ids, sorted, in at least one part; all rows of an id are in one."""
    size = max(_MIN_RANGE_ROWS, -(-ids.height // _MAX_RANGES))
    ids = ids.sort("id", maintain_order=True)
    start = 0
    while start < ids.height or start == 0:
        last = ids["id"][min(start + size, ids.height) - 1] if ids.height else None
        end = ids["id"].search_sorted(last, side="right") if last is not None else 1
        yield ids[start:end]
        start = end


def _dedupe(rows: pl.DataFrame, key: list[str]) -> pl.DataFrame:
    """The rows, a later one replacing an earlier one with the same key."""
    return rows.unique(key, keep="last", maintain_order=True)


def _numbered(rows: pl.DataFrame, images: pl.DataFrame) -> pl.DataFrame:
    """The rows of images (id, image, url) with the numbers that these have."""
    columns = rows.columns
    matched = rows.drop("image").join(images, on=IMAGE_KEY).select(columns)
    if matched.height == images.height:
        return matched
    vacant = images.join(matched, on=ROW_KEY, how="anti")
    outdated = rows.join(matched, on=IMAGE_KEY, how="anti").join(vacant, on=ROW_KEY, how="semi")
    return pl.concat([matched, outdated])
