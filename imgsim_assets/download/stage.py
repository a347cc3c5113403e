"""The images stage: fetches what a shard of a catalog lacks, and commits its ledger."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import polars as pl

from imgsim_assets.download.files.image_folder import ImageFolder, is_local, is_web
from imgsim_assets.download.files.remote_objects import RemoteObjects
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.image_fetcher import ImageFetcher
from imgsim_assets.download.ledger.fetch_plan import DueImages, FetchPlan, plan_fetches
from imgsim_assets.download.ledger.packs import check_packs
from imgsim_assets.download.ledger.replaced_images import report_unreadable
from imgsim_assets.download.ledger.shard_ledger import ShardLedger
from imgsim_assets.download.ledger.table import IMAGE_KEY, ledger_table, utc_now
from imgsim_assets.download.ledger.writer import LedgerWriter
from imgsim_assets.download.recorded import RecordedSettings
from imgsim_assets.download.scheduling.host_shares import HostShares
from imgsim_assets.download.scheduling.hosts import Hosts, HostStats
from imgsim_assets.download.settings import DownloadSettings, Retry
from imgsim_assets.download.shard_downloader import ShardDownloader
from imgsim_assets.download.shard_items import ShardItems
from imgsim_assets.download.shard_run import ShardRun
from imgsim_assets.download.status import OK
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.lease import Lease
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted


@dataclass(frozen=True)
class DownloadReport:
    """What a run did for one shard.

    `items` are all of the shard, and `usable_items` have at least one image. Everything else
    counts images: `statuses` all of the shard, each by its status. `requested` images were tried
    in this run: `fetched` of them arrived, `unchanged` were due for revalidation and are kept,
    because the server confirmed them or because the request failed; the others failed.
    `removed_items` left the catalog, and `removed_images` left it with their items or alone.
    `bytes` are those of the fetched files. `hosts` are those with the most failures and the
    slowest responses so far in the run, and `hosts_skipped` those that their circuit breaker
    skipped.
    """

    shard: str
    version: int
    items: int
    usable_items: int
    images: int
    requested: int
    fetched: int
    removed_items: int
    removed_images: int
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
        """Images of the shard that were not fetched."""
        return self.images - self.statuses.get(OK, 0)


class ImagesStage:
    """Fetches the images of one catalog, shard by shard, over one HTTP client.

    Use it as a context manager, outside of a running event loop.

    Args:
        store: holds the catalog, the images and the ledger.
        name: the catalog.
        settings: timeouts, limits and politeness.
        retry: the failures of earlier runs that are tried again.
        record: whether the ledger records `settings` as those of the catalog.
        wait: wait for another run that is at work on a shard; else raise BusyError.
        log: takes messages about progress, hosts and damage.
        on_row: called after each image that was fetched or failed.
        on_commit: called from any thread after each commit in the middle of a shard.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        settings: DownloadSettings,
        *,
        retry: Retry = "retryable",
        record: bool = True,
        wait: bool = True,
        log: Log = silent,
        on_row: Callable[[], None] | None = None,
        on_commit: Callable[[Shard], None] | None = None,
    ) -> None:
        self._store = store
        self._name = name
        self._settings = settings
        self._retry: Retry = retry
        self._recorded = RecordedSettings.of(settings).to_json() if record else None
        self._wait = wait
        self._log = log
        self._on_row = on_row
        self._on_commit = on_commit
        self._logged: set[str] = set()
        self._table = ledger_table(store, name)
        self._shares = HostShares(
            settings.max_per_host,
            is_paced=settings.max_requests_per_second_per_host is not None,
            files=store.files,
            log=log,
        )
        self._http = HttpClient(settings, self._shares)
        self._objects = RemoteObjects(
            settings.allowed_url_prefixes, settings.max_bytes, settings.image_bytes
        )
        self._hosts = Hosts(settings.circuit_breaker_threshold)
        self._runner = asyncio.Runner()
        self._fetching: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._runner.run(self._http.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        try:
            # An interrupted download continues here, and may end by raising once more.
            self._runner.run(self._cancel_fetching())
        finally:
            try:
                self._runner.run(self._http.__aexit__(*error))
            finally:
                self._runner.close()

    async def _cancel_fetching(self) -> None:
        """Cancel a download that an interruption of the event loop left running, and let it commit.

        This comes before the HTTP client closes, which would fail every image that still waits.
        """
        if self._fetching is not None and not self._fetching.done():
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def run(self, shard: Shard) -> DownloadReport:
        """Fetch what is due in a shard and commit its ledger.

        The failure of an image is a status in the ledger. Without due images nothing is committed.

        Raises:
            StoreError: the catalog was never ingested.
            BusyError: another run is at work on the shard, and this one does not wait.
        """
        run = self._start(shard)
        base = self._table.latest()
        plan = self._plan(run, base)
        if len(plan.images):
            with self._lease(shard):
                newest = self._table.latest()
                if newest is not None and (base is None or newest.version > base.version):
                    base, plan = newest, self._plan(run, newest)
                if len(plan.images):
                    if plan.is_renumbered:
                        run.writer.renumber()
                    with _infrequent_gc():
                        self._runner.run(self._fetch_all(run, plan.images))
                    plan = plan.without_images()
                commit, summary = run.writer.finish(has_changes=plan.changes_rows)
        else:
            commit, summary = run.writer.finish(has_changes=plan.changes_rows)
        if plan.replaced:
            report_unreadable(self._store, plan.replaced)
        return DownloadReport(
            shard=shard.name,
            version=commit.version,
            items=summary.items,
            usable_items=summary.usable_items,
            images=summary.images,
            requested=run.requested,
            fetched=run.fetched,
            removed_items=len(plan.removed_ids),
            removed_images=plan.removed_images,
            bytes=run.bytes,
            seconds=time.monotonic() - run.clock,
            statuses=dict(sorted(summary.statuses.items())),
            changed=base is None or commit.files != base.files,
            data_version=summary.data_version,
            unchanged=run.unchanged,
            revalidation_errors=dict(sorted(summary.revalidation_errors.items())),
            hosts=self._hosts.slowest_and_failing(),
            hosts_skipped=self._hosts.skipped(),
        )

    def is_due(self, shard: Shard) -> bool:
        """Whether `run` would request an image of a shard, remove or renumber one.

        Raises:
            StoreError: the catalog was never ingested.
        """
        plan = self._plan(self._start(shard), self._table.latest())
        return bool(len(plan.images)) or plan.changes_rows

    def _start(self, shard: Shard) -> ShardRun:
        items = ShardItems(self._store, self._name, shard)
        root, started = items.root, utc_now()
        folder = None if is_web(root) else self._folder(root)
        ledger = ShardLedger(self._table, shard, self._log_once)
        limits = self._settings.limits_digest(root)
        writer = LedgerWriter(ledger, self._store.blobs, items, started, limits, self._recorded)
        return ShardRun(items, writer, folder, started, self._on_row, self._on_commit)

    def _folder(self, root: str) -> ImageFolder:
        return ImageFolder(root, self._settings.max_bytes, self._settings.image_bytes)

    def _plan(self, run: ShardRun, base: Commit | None) -> FetchPlan:
        """What to fetch, without images that another run has requested since this one started."""
        items, writer, folder = run.items.rows, run.writer, run.folder
        rows = writer.ledger.read(base)
        writer.pack_check = check_packs(self._store.blobs, writer.ledger.files(base), rows)
        if writer.pack_check.lost:
            self._log_once(
                f"{self._table.name}: fetching "
                f"{counted(len(writer.pack_check.lost), 'image')} again, whose pack was lost"
            )
        plan = plan_fetches(
            items,
            rows,
            now=run.started,
            file_version=folder.file_versions(items["url"]) if folder is not None else None,
            missing_blobs=self._store.blobs.missing() | writer.pack_check.lost,
            blob_exists=self._store.blobs.contains,
            location=partial(_location, folder, self._objects),
            same_settings=writer.ledger.limits(base) <= {writer.limits},
            retry=self._retry,
            revalidate_age=self._settings.revalidate_age,
        )
        writer.other_runs.mark_seen(base)
        # Up to now: rows from before the clock was set back are not those of another run.
        since_start = pl.col("fetched_at").is_between(run.started, utc_now())
        requested = rows.filter(since_start).select(IMAGE_KEY)
        if not requested.height:
            return plan
        return replace(plan, images=plan.images.without(requested))

    def _lease(self, shard: Shard) -> Lease:
        path = f"{self._table.name}/_leases/{shard.name}-of-{shard.count}"
        work = f"{self._name} shard {shard.name}"
        return Lease(self._store.files, path, work=work, log=self._log, wait=self._wait)

    def _log_once(self, message: str) -> None:
        """Log damage once, although every read of that part of the ledger finds it."""
        if message not in self._logged:
            self._logged.add(message)
            self._log(message)

    async def _fetch_all(self, run: ShardRun, images: DueImages) -> None:
        self._fetching = asyncio.current_task()
        label = f"{self._name} shard {run.writer.ledger.shard.name}"
        with Progress(label, len(images), self._log) as progress:
            downloader = ShardDownloader(
                images,
                self._settings,
                fetcher=ImageFetcher(
                    self._http, run.folder, self._objects, self._settings, self._store.blobs
                ),
                blobs=self._store.blobs,
                hosts=self._hosts,
                shares=self._shares,
                on_rows=partial(run.add_rows, progress),
                log=self._log,
            )
            await run.fetch(downloader, self._shares, progress)


def _location(folder: ImageFolder | None, objects: RemoteObjects, url: str) -> str | None:
    """Where the store finds the image of a url, if it is to refer to it."""
    if is_web(url):
        return None
    return folder.location(url) if folder is not None and is_local(url) else objects.location(url)


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
