"""Reads and counts the ledger rows of one shard, in parts that fit into memory."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import polars as pl

from imgsim_assets.download.ledger.table import empty_ledger, images, with_all_columns
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
    """Counts and data version of rows that are added in parts, sorted by id.

    `statuses` counts all rows; `revalidation_errors` counts the good images whose revalidation
    failed.
    """

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.revalidation_errors: Counter[str] = Counter()
        self._images = RowsDigest(2)

    def add(self, rows: pl.DataFrame) -> None:
        """Add the next rows."""
        self.statuses.update(dict(rows["status"].value_counts().iter_rows()))
        errors = rows["revalidation_error"].drop_nulls()
        self.revalidation_errors.update(dict(errors.value_counts().iter_rows()))
        self._images.update(images(rows))

    def add_all(self, parts: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Pass the parts through, and add each."""
        for rows in parts:
            self.add(rows)
            yield rows

    @property
    def items(self) -> int:
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
        """The ids of the shard's rows."""
        ids = self.table.read(commit, shard=self.shard, columns=["id"], on_corrupt=self._on_corrupt)
        return with_all_columns(ids).select("id")

    def latest_rows(
        self, commit: Commit | None, ids: pl.DataFrame, new: pl.DataFrame
    ) -> Iterator[pl.DataFrame]:
        """The rows of `ids`, in parts sorted by id; rows of `new` replace those of the commit."""
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
                existing = [with_all_columns(read((first, last)))] if read is not None else []
                rows = _dedupe_latest([*existing, new.filter(in_range)])
                yield rows.filter(pl.col("id").is_in(part["id"].implode()))

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
    """The ids, sorted, in at least one part."""
    rows = max(_MIN_RANGE_ROWS, -(-ids.height // _MAX_RANGES))
    yield from ids.sort("id").iter_slices(rows) if ids.height else [ids]


def _dedupe_latest(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All rows sorted by id, a later row of an id replacing an earlier one."""
    rows = pl.concat(frames).sort("id", maintain_order=True)
    return rows.filter(pl.col("id").ne_missing(pl.col("id").shift(-1)))
