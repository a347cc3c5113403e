"""Committing the ledger rows of one run and shard: appends while it runs, one file at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Any

import polars as pl

from imgsim_assets.download.ledger.counts import COUNTS
from imgsim_assets.download.ledger.other_runs import OtherRuns
from imgsim_assets.download.ledger.packs import PackCheck, named_packs, packs_metadata
from imgsim_assets.download.ledger.shard_ledger import LedgerSummary, ShardLedger
from imgsim_assets.download.ledger.table import (
    IMAGE_KEY,
    PROPERTIES,
    Row,
    empty_ledger,
    ledger_frame,
)
from imgsim_assets.download.recorded import DOWNLOAD
from imgsim_assets.download.shard_items import ShardItems
from imgsim_assets.storage.blobs import Blobs
from imgsim_assets.storage.commit import (
    Commit,
    DataFile,
    PendingCommit,
    append_to_shard,
    is_compacted,
    replace_shard,
)

# With this many pending rows a commit is due, so that fast sources do not fill the memory.
_MAX_PENDING_ROWS = 10_000
# This many pending rows, as Python objects, become a frame.
_ROWS_PER_FRAME = 1024
# With more delta files than this an append compacts some of them, so that commits stay small.
_MAX_DELTA_FILES = 32
# Small row groups: reading a range of ids takes a few rows of each delta file.
_DELTA_ROW_GROUP = 1024


class PendingRows:
    """Rows that are not committed yet: the last ones as Python objects, the others as frames.

    Only `forget` may be called from another thread than that of the event loop.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._frames: list[pl.DataFrame] = []

    def add(self, row: Row) -> None:
        """Add a row."""
        self._rows.append(row)
        if len(self._rows) >= _ROWS_PER_FRAME:
            self._seal()

    def _seal(self) -> None:
        if self._rows:
            self._frames.append(ledger_frame(self._rows))
            self._rows = []

    @property
    def is_full(self) -> bool:
        """Whether the rows should be committed now."""
        return len(self._frames) * _ROWS_PER_FRAME >= _MAX_PENDING_ROWS

    def frames(self) -> list[pl.DataFrame]:
        """All rows so far."""
        self._seal()
        return list(self._frames)

    def forget(self, count: int) -> None:
        """Drop the first `count` frames."""
        del self._frames[:count]


class LedgerWriter:
    """Commits the pending rows of one run and shard.

    Images are flushed to disk before the rows that refer to them are committed. `limits` is the
    digest of the run's limits, which is recorded with each file. `recorded` are the
    settings that each commit records; None keeps those of the last one.
    """

    def __init__(
        self,
        ledger: ShardLedger,
        blobs: Blobs,
        items: ShardItems,
        started: datetime,
        limits: str,
        recorded: Mapping[str, Any] | None = None,
    ) -> None:
        self.ledger = ledger
        self.other_runs = OtherRuns(ledger, started)
        self.pending = PendingRows()
        self.pack_check = PackCheck()
        self._blobs = blobs
        self._items = items
        # The images whose numbers the rows of the shard have.
        self._numbered_as: pl.DataFrame | None = items.rows
        self.limits = limits
        self._recorded = recorded

    def append(self, frames: Sequence[pl.DataFrame]) -> Commit | None:
        """Commit the first pending frames as a delta file; they stay pending when that fails."""
        self._blobs.flush()
        commit = self._commit(pl.concat(frames))
        self.pending.forget(len(frames))
        return commit

    def renumber(self) -> None:
        """Commit the ledger's rows with the numbers that their images have now.

        A row that is added later then replaces none of an image that only moved.
        """
        self._numbered_as = None
        self._commit(empty_ledger())

    def _commit(self, rows: pl.DataFrame) -> Commit | None:
        images = self._items.rows

        def change(base: Commit | None) -> PendingCommit:
            nonlocal images
            images = self._items.latest()
            new = self._drop_superseded(base, images, rows)
            if base is None or images is self._numbered_as:
                return self._appended(base, new)
            return self._renumbered(base, images, new)

        commit = self.ledger.table.commit(change)
        self._numbered_as = images
        self.other_runs.mark_seen(commit)
        return commit

    def _renumbered(self, base: Commit, images: pl.DataFrame, new: pl.DataFrame) -> PendingCommit:
        """The rows of the base and new ones in one file, of a shard that is not finished yet."""
        replaced = self.ledger.files(base)
        shared = _shared_metadata([*(file.metadata for file in replaced), self._metadata])
        packs = packs_metadata(self._blobs, new, named_packs(replaced))
        parts = self.ledger.numbered_rows(base, images, new)
        file = self.ledger.table.write_sorted_chunks(parts).with_metadata(**{**shared, **packs})
        return self._pending_commit(base, replace_shard(base, self.ledger.shard, [file]))

    def _appended(self, base: Commit | None, rows: pl.DataFrame) -> PendingCommit:
        new_packs = packs_metadata(self._blobs, rows)
        files = base.files_of_shard(self.ledger.shard) if base is not None else []
        deltas = [file for file in files if not file.is_snapshot]
        if base is None or len(deltas) <= _MAX_DELTA_FILES:
            file = self._write_delta(None, rows).with_metadata(**self._metadata, **new_packs)
            return self._pending_commit(base, append_to_shard(base, self.ledger.shard, [file]))
        merged = _select_for_compaction(deltas)
        file = self._write_delta(replace(base, files=tuple(merged)), rows)
        shared = _shared_metadata([*(file.metadata for file in merged), self._metadata])
        packs = packs_metadata(self._blobs, rows, named_packs(merged))
        file = file.with_metadata(**{**shared, **packs})
        rest = replace(base, files=tuple(file for file in base.files if file not in merged))
        return self._pending_commit(base, append_to_shard(rest, self.ledger.shard, [file]))

    def finish(self, *, has_changes: bool) -> tuple[Commit, LedgerSummary]:
        """Commit the remaining rows, and compact the shard's ledger into one file.

        Commits nothing without rows, and unless `has_changes` in those that are committed, if the
        ledger is one intact file already that names existing packs.
        """
        table, shard = self.ledger.table, self.ledger.shard
        new = pl.concat([empty_ledger(), *self.pending.frames()])
        summary: LedgerSummary | None = None

        def change(base: Commit | None) -> PendingCommit | None:
            nonlocal summary
            summary = None
            is_due = (
                new.height or has_changes or self.pack_check.gone or not is_compacted(base, shard)
                if base is not None
                else True
            )
            if base is not None and not is_due and table.verify_checksums(base, shard=shard):
                # Other settings alone are recorded without touching a file.
                has_recorded = self._properties_after(base) == base.properties
                return None if has_recorded else self._pending_commit(base, base.files)
            images = self._items.latest()
            rows = self._drop_superseded(base, images, new)
            packs = self.pack_check.remaining(named_packs(self.ledger.files(base)))
            summary = LedgerSummary()
            parts = summary.add_all(self.ledger.numbered_rows(base, images, rows))
            file = table.write_sorted_chunks(parts)
            file = file.with_metadata(limits=self.limits, **{COUNTS: summary.counts})
            if flushed is not None:
                flushed.result()
            file = file.with_metadata(**packs_metadata(self._blobs, rows, packs))
            return self._pending_commit(base, replace_shard(base, shard, [file]))

        with ThreadPoolExecutor(1, thread_name_prefix="flush") as thread:
            # The disk syncs the images while the ledger is merged, which is committed after that.
            flushed = thread.submit(self._blobs.flush) if new.height else None
            commit = table.commit(change)
        if commit is None:
            raise AssertionError("the first run of a shard always commits")
        return commit, summary or self.ledger.summarize(commit)

    @property
    def _metadata(self) -> dict[str, Any]:
        return {"limits": self.limits, "run": self.other_runs.token}

    def _drop_superseded(
        self, base: Commit | None, images: pl.DataFrame, rows: pl.DataFrame
    ) -> pl.DataFrame:
        """Drop rows of images that left the catalog, and failures that another run has fetched."""
        if images is not self._items.rows:
            rows = rows.drop("image").join(images, on=IMAGE_KEY).select(rows.columns)
        self.other_runs.poll(base)
        return self.other_runs.drop_superseded(rows)

    def _write_delta(self, base: Commit | None, new: pl.DataFrame) -> DataFile:
        """Write new rows, and the shard's rows in `base`, as one file."""
        existing = [self.ledger.read_ids(base)] if base is not None else []
        ids = pl.concat([*existing, new.select("id")]).unique()
        rows = self.ledger.latest_rows(base, ids, new)
        return self.ledger.table.write_sorted_chunks(rows, row_group_size=_DELTA_ROW_GROUP)

    def _pending_commit(self, base: Commit | None, files: Sequence[DataFile]) -> PendingCommit:
        version = base.inputs.get("items", 0) if base is not None else 0
        return PendingCommit(
            files,
            inputs={"items": max(self._items.version, version)},
            properties=self._properties_after(base),
        )

    def _properties_after(self, base: Commit | None) -> Mapping[str, Any]:
        recorded = self._recorded
        if recorded is None and base is not None:
            recorded = base.properties.get(DOWNLOAD)
        return {**PROPERTIES, **({DOWNLOAD: recorded} if recorded is not None else {})}


def _select_for_compaction(deltas: Sequence[DataFile]) -> list[DataFile]:
    """The last files, back to the first that is much larger than those behind it together.

    As in a log-structured merge tree, each row is then rewritten a few times only.
    """
    selected: list[DataFile] = []
    rows = 0
    for file in reversed(deltas):
        if selected and (file.rows or 0) > 2 * rows:
            break
        selected.append(file)
        rows += file.rows or 0
    return selected[::-1]


def _shared_metadata(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that are the same in all files."""
    first = metadata[0]
    return {
        key: first[key] for key in first if all(other.get(key) == first[key] for other in metadata)
    }
