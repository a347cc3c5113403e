"""One run over one shard: fetches its images, and commits their ledger rows meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

import polars as pl

from imgsim_assets.download.files.image_folder import ImageFolder
from imgsim_assets.download.ledger.rows import failure_status
from imgsim_assets.download.ledger.table import Row
from imgsim_assets.download.ledger.writer import LedgerWriter
from imgsim_assets.download.scheduling.host_shares import HostShares
from imgsim_assets.download.shard_downloader import ShardDownloader, wait_for_event
from imgsim_assets.download.shard_items import ShardItems
from imgsim_assets.download.status import OK
from imgsim_assets.progress import Progress
from imgsim_assets.storage.shards import Shard

# A killed run loses at most what it fetched since the last commit.
COMMIT_EVERY_SECONDS = 5.0
# With `on_commit`, as for embeddings that are computed meanwhile: they start sooner then, and
# have less left to do at the end.
_PIPELINED_COMMIT_EVERY_SECONDS = 2.0


class ShardRun:
    """The state of one run over one shard, and its counts for the report.

    `folder` is None for a catalog whose root is on a web server: its paths become URLs, which
    are guarded like any others. `on_row` and `on_commit` are those of `ImagesStage`.
    """

    def __init__(
        self,
        items: ShardItems,
        writer: LedgerWriter,
        folder: ImageFolder | None,
        started: datetime,
        on_row: Callable[[], None] | None,
        on_commit: Callable[[Shard], None] | None,
    ) -> None:
        self.items = items
        self.writer = writer
        self.folder = folder
        self.started = started
        self.requested = self.fetched = self.unchanged = self.bytes = 0
        self.clock = time.monotonic()
        self._on_row = on_row
        self._on_commit = on_commit
        self._wake = asyncio.Event()
        self._is_done = False

    async def fetch(
        self, downloader: ShardDownloader, shares: HostShares, progress: Progress
    ) -> None:
        """Fetch everything and commit every few seconds; the last rows stay pending.

        After a failure or a cancellation, what was fetched is committed.
        """
        try:
            await shares.join(downloader.host_names, downloader.refresh)
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(shares.watch())
                group.create_task(self._commit_regularly(downloader, progress))
                await downloader.run()
                watching.cancel()
                self._is_done = True
                self._wake.set()
        except BaseException as error:
            self._append(self.writer.pending.frames())
            raise _innermost(error) from error
        finally:
            await shares.leave()

    def add_rows(self, progress: Progress, rows: Sequence[Row]) -> None:
        """Count finished images, and queue their rows for the next commit."""
        for row in rows:
            self.writer.pending.add(row)
            self.requested += 1
            has_arrived = row["fetched_at"] >= self.started
            self.bytes += (row.get("bytes") or 0) if has_arrived else 0
            self.fetched += has_arrived and row["status"] == OK
            self.unchanged += row.get("checked_at") is not None and not has_arrived
        if self.writer.pending.is_full:
            self._wake.set()
        for kind, count in Counter(failure_status(row) or OK for row in rows).items():
            progress.advance(count, kind=kind)
        if self._on_row is not None:
            for _ in rows:
                self._on_row()

    async def _commit_regularly(self, downloader: ShardDownloader, progress: Progress) -> None:
        """Commit every few seconds, and when many rows are pending, until all is fetched."""
        pause = COMMIT_EVERY_SECONDS
        if self._on_commit is not None:
            pause = min(pause, _PIPELINED_COMMIT_EVERY_SECONDS)
        while not self._is_done:
            if not self.writer.pending.is_full:
                self._wake.clear()
                await wait_for_event(self._wake, pause)
            if not self._is_done:
                frames = self.writer.pending.frames()
                images = await asyncio.to_thread(self._append, frames)
                if images:
                    progress.advance(downloader.discard(images), kind="by another run")

    def _append(self, frames: Sequence[pl.DataFrame]) -> set[tuple[str, str]]:
        """Commit pending rows; returns the images that other runs have requested meanwhile."""
        if not frames:
            return set()
        commit = self.writer.append(frames)
        if self._on_commit is not None:
            self._on_commit(self.writer.ledger.shard)
        self.writer.other_runs.poll(commit)
        return self.writer.other_runs.take_new_images()


def _innermost(error: BaseException) -> BaseException:
    """The first error in a group, so that a run fails with the cause."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
