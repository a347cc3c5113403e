"""The images stage: fetches what a shard of a catalog lacks, and commits its ledger."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TextIO

import polars as pl

from imgsim_assets.download.files.image_folder import ImageFolder, is_web
from imgsim_assets.download.files.remote_objects import RemoteObjects
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.image_fetcher import ImageFetcher
from imgsim_assets.download.ledger.fetch_plan import FetchItems, FetchPlan, plan_fetches
from imgsim_assets.download.ledger.other_runs import OtherRuns
from imgsim_assets.download.ledger.rows import failure_status
from imgsim_assets.download.ledger.shard_ledger import ShardLedger
from imgsim_assets.download.ledger.table import Row, ledger_table, utc_now
from imgsim_assets.download.ledger.writer import LedgerWriter
from imgsim_assets.download.scheduling.hosts import Hosts, HostStats
from imgsim_assets.download.settings import DownloadSettings, Retry
from imgsim_assets.download.shard_downloader import ShardDownloader, wait_for_event
from imgsim_assets.download.shard_items import ShardItems
from imgsim_assets.download.status import OK
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.lease import Lease
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store

# A killed run loses at most what it fetched since the last commit.
COMMIT_EVERY_SECONDS = 5.0
# With `on_commit`, as for embeddings that are computed meanwhile: they start sooner then, and
# have less left to do at the end.
_FOLLOWED_COMMIT_EVERY_SECONDS = 2.0


@dataclass(frozen=True)
class DownloadReport:
    """What a run did for one shard.

    `statuses` counts every item of the shard. `requested` items were tried in this run: `fetched`
    of them arrived as images, `unchanged` were due for revalidation and keep their image, because
    the server confirmed it or because the request failed; the others failed. `bytes` are those of
    the fetched files. `hosts` are those with the most failures and the slowest responses so far
    in the run, and `hosts_skipped` those that their circuit breaker skipped.
    """

    shard: str
    version: int
    items: int
    requested: int
    fetched: int
    removed: int
    bytes: int
    seconds: float
    statuses: Mapping[str, int]
    changed: bool
    data_version: str
    unchanged: int = 0
    revalidation_errors: Mapping[str, int] = field(default_factory=dict)
    hosts: Sequence[HostStats] = ()
    hosts_skipped: Sequence[str] = ()

    @property
    def failed(self) -> int:
        """Items of the shard without an image."""
        return self.items - self.statuses.get(OK, 0)


@dataclass
class _ShardDownload:
    """One shard's download while it runs.

    `folder` is None for a catalog whose root is on a web server: its paths become URLs, which
    are guarded like any others.
    """

    items: ShardItems
    ledger: ShardLedger
    other_runs: OtherRuns
    writer: LedgerWriter
    folder: ImageFolder | None
    limits: str
    started: datetime
    clock: float = field(default_factory=time.monotonic)
    is_done: bool = False
    requested: int = 0
    fetched: int = 0
    unchanged: int = 0
    bytes: int = 0

    @property
    def shard(self) -> Shard:
        return self.ledger.shard

    def add(self, row: Row) -> None:
        """Count a ledger row, and queue it for the next commit."""
        self.writer.pending.add(row)
        self.requested += 1
        has_arrived = row["fetched_at"] >= self.started
        self.bytes += (row.get("bytes") or 0) if has_arrived else 0
        self.fetched += has_arrived and row["status"] == OK
        self.unchanged += row.get("checked_at") is not None and not has_arrived


class ImagesStage:
    """Fetches the images of one catalog, shard by shard, over one HTTP client.

    Use it as a context manager, outside of a running event loop.

    Args:
        store: holds the catalog, the images and the ledger.
        name: the catalog.
        settings: timeouts, limits and politeness.
        retry: the failures of earlier runs that are tried again.
        log: takes messages about progress, hosts and damage.
        bar: a terminal for a progress bar.
        on_row: called after each item that was fetched or failed.
        on_commit: called from any thread after each commit in the middle of a shard.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        settings: DownloadSettings,
        *,
        retry: Retry = "retryable",
        log: Log = silent,
        bar: TextIO | None = None,
        on_row: Callable[[], None] | None = None,
        on_commit: Callable[[Shard], None] | None = None,
    ) -> None:
        self._store = store
        self._name = name
        self._settings = settings
        self._retry: Retry = retry
        self._log = log
        self._bar = bar
        self._on_row = on_row
        self._on_commit = on_commit
        self._logged: set[str] = set()
        self._table = ledger_table(store, name)
        self._http = HttpClient(settings)
        self._objects = RemoteObjects(settings.allowed_url_prefixes, settings.max_bytes)
        self._hosts = Hosts(settings.circuit_breaker_threshold)
        self._runner = asyncio.Runner()
        self._fetching: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._runner.run(self._http.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # An interrupted download continues here, and may end by raising once more.
            self._runner.run(self._cancel_fetching())
        finally:
            try:
                self._runner.run(self._http.__aexit__(kind, error, trace))
            finally:
                self._runner.close()

    async def _cancel_fetching(self) -> None:
        """Cancel a download that an interruption of the event loop left running, and let it commit.

        This comes before the HTTP client closes, which would fail every item that still waits.
        """
        if self._fetching is not None and not self._fetching.done():
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def run(self, shard: Shard) -> DownloadReport:
        """Fetch what is due in a shard and commit its ledger.

        The failure of an item is a status in the ledger. Without due items nothing is committed.

        Raises:
            StoreError: the catalog was never ingested.
        """
        download = self._start(shard)
        base = self._table.latest()
        plan = self._plan(download, base)
        if len(plan.items):
            with self._lease(shard):
                newest = self._table.latest()
                if newest is not None and (base is None or newest.version > base.version):
                    base, plan = newest, self._plan(download, newest)
                if len(plan.items):
                    with _infrequent_gc():
                        self._runner.run(self._fetch_all(download, plan.items))
                    # Free the urls before the ledger is merged: a shard may have millions.
                    plan = plan.without_items()
                    download.items.drop_urls()
                commit, summary = download.writer.finish(removed=bool(plan.removed_ids))
        else:
            commit, summary = download.writer.finish(removed=bool(plan.removed_ids))
        return DownloadReport(
            shard=shard.name,
            version=commit.version,
            items=summary.items,
            requested=download.requested,
            fetched=download.fetched,
            removed=len(plan.removed_ids),
            bytes=download.bytes,
            seconds=time.monotonic() - download.clock,
            statuses=summary.statuses,
            changed=base is None or commit.version != base.version,
            data_version=summary.data_version,
            unchanged=download.unchanged,
            revalidation_errors=summary.revalidation_errors,
            hosts=self._hosts.slowest_and_failing(),
            hosts_skipped=self._hosts.skipped(),
        )

    def _start(self, shard: Shard) -> _ShardDownload:
        settings = self._settings
        items = ShardItems(self._store, self._name, shard)
        started = utc_now()
        limits = settings.limits_digest(items.root)
        ledger = ShardLedger(self._table, shard, self._log_once)
        other_runs = OtherRuns(ledger, started)
        writer = LedgerWriter(
            ledger,
            self._store.blobs,
            items,
            other_runs,
            limits=limits,
            on_append=(lambda: on_commit(shard)) if (on_commit := self._on_commit) else None,
        )
        folder = None if is_web(items.root) else ImageFolder(items.root, settings.max_bytes)
        return _ShardDownload(items, ledger, other_runs, writer, folder, limits, started)

    def _plan(self, download: _ShardDownload, base: Commit | None) -> FetchPlan:
        """What to fetch, without items that another run has requested since this one started."""
        items, folder = download.items.rows, download.folder
        rows = download.ledger.read(base)
        plan = plan_fetches(
            items,
            rows,
            now=download.started,
            file_version=folder.file_versions(items["url"]) if folder is not None else None,
            missing_blobs=self._store.blobs.missing(),
            blob_exists=self._store.blobs.contains,
            same_settings=download.ledger.limits(base) <= {download.limits},
            retry=self._retry,
            revalidate_age=self._settings.revalidate_age,
        )
        download.other_runs.mark_seen(base)
        requested = rows.filter(pl.col("fetched_at") >= download.started).select("id", "url")
        if not requested.height:
            return plan
        return FetchPlan(plan.items.without(requested), plan.removed_ids)

    def _lease(self, shard: Shard) -> Lease:
        return Lease(
            self._store.files,
            f"{self._table.name}/_leases/{shard.name}-of-{shard.count}",
            work=f"{self._name} shard {shard.name}",
            log=self._log,
        )

    def _log_once(self, message: str) -> None:
        """Log damage that every reading of a part of the ledger meets again."""
        if message not in self._logged:
            self._logged.add(message)
            self._log(message)

    # ---- fetching and committing at the same time -----------------------------------

    async def _fetch_all(self, download: _ShardDownload, items: FetchItems) -> None:
        self._fetching = asyncio.current_task()
        wake = asyncio.Event()
        label = f"{self._name} shard {download.shard.name}"
        try:
            with Progress(label, len(items), self._log, tty=self._bar) as progress:
                downloader = self._downloader(download, items, progress, wake)
                async with asyncio.TaskGroup() as group:
                    commits = self._commit_regularly(download, downloader, progress, wake)
                    group.create_task(commits)
                    await downloader.run()
                    download.is_done = True
                    wake.set()
        except BaseException as error:
            # What was fetched before the failure or the cancellation is committed.
            download.writer.append(download.writer.pending.frames())
            raise _innermost(error) from error

    def _downloader(
        self, download: _ShardDownload, items: FetchItems, progress: Progress, wake: asyncio.Event
    ) -> ShardDownloader:
        def add_rows(rows: Sequence[Row]) -> None:
            for row in rows:
                download.add(row)
            if download.writer.pending.is_full:
                wake.set()
            for kind, count in Counter(failure_status(row) or OK for row in rows).items():
                progress.advance(count, kind=kind)
            if self._on_row is not None:
                for _ in rows:
                    self._on_row()

        return ShardDownloader(
            items,
            self._settings,
            fetcher=ImageFetcher(self._http, download.folder, self._objects, self._settings),
            blobs=self._store.blobs,
            hosts=self._hosts,
            on_rows=add_rows,
            log=self._log,
        )

    async def _commit_regularly(
        self,
        download: _ShardDownload,
        downloader: ShardDownloader,
        progress: Progress,
        wake: asyncio.Event,
    ) -> None:
        """Commit every few seconds, and whenever `wake` is set, until everything is fetched."""
        writer = download.writer
        pause = COMMIT_EVERY_SECONDS
        if self._on_commit is not None:
            pause = min(pause, _FOLLOWED_COMMIT_EVERY_SECONDS)
        while not download.is_done:
            if not writer.pending.is_full:
                wake.clear()
                await wait_for_event(wake, pause)
            if not download.is_done:
                frames = writer.pending.frames()
                ids = await asyncio.to_thread(writer.append, frames)
                if ids:
                    progress.advance(downloader.discard(ids), kind="by another run")


@contextlib.contextmanager
def _infrequent_gc() -> Iterator[None]:
    """Let Python search for reference cycles less often, and among new objects only.

    Requests make many short-lived objects and next to no cycles. The usual frequency, over all
    objects of the process, takes a tenth of the time.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _innermost(error: BaseException) -> BaseException:
    """The first error in a group, so that a run fails with the cause."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def download(
    store: Store,
    name: str,
    settings: DownloadSettings,
    shards: Sequence[Shard],
    *,
    retry: Retry = "retryable",
    log: Log = silent,
    bar: TextIO | None = None,
) -> list[DownloadReport]:
    """Run the images stage for several shards in turn; see `ImagesStage`."""
    with ImagesStage(store, name, settings, retry=retry, log=log, bar=bar) as stage:
        return [stage.run(shard) for shard in shards]
