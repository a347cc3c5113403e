"""The images stage: fetch what a shard of a catalogue lacks, and commit its ledger."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import polars as pl

from imgsim_assets.download import ledger
from imgsim_assets.download.fetcher import Fetched, Fetcher, host_of
from imgsim_assets.download.hosts import HostQueues
from imgsim_assets.download.ledger import Item
from imgsim_assets.download.local import ImageFolder, is_local
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import OK, FetchError, is_transient
from imgsim_assets.errors import StoreError
from imgsim_assets.images.header import ImageError, read_header
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import (
    Commit,
    Draft,
    append_to_shard,
    replace_shard,
)

# A killed run loses at most what it fetched since the last commit.
COMMIT_EVERY_SECONDS = 5.0
_LONGEST_BACKOFF_SECONDS = 30.0


@dataclass(frozen=True)
class DownloadReport:
    """What a run did for one shard. `statuses` counts every item of the shard."""

    shard: str
    version: int
    items: int
    fetched: int
    removed: int
    bytes: int
    seconds: float
    statuses: Mapping[str, int]
    changed: bool
    data_version: str


@dataclass
class _Work:
    """A shard's run as it goes: rows not committed yet, and totals."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    fetched: int = 0
    bytes: int = 0


class ImagesStage:
    """Fetches the shards of one catalogue over one HTTP client.

    Use it as a context manager, outside of a running event loop.
    """

    def __init__(
        self, store: Store, name: str, settings: DownloadSettings, *, log: Log = silent
    ) -> None:
        self._store = store
        self._name = name
        self._settings = settings
        self._log = log
        self._table = ledger.ledger_table(store, name)
        self._catalogue = store.table(f"{name}/catalogue", key="id")
        self._fetcher = Fetcher(settings)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._fetcher.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.run(self._fetcher.__aexit__(kind, error, trace))
        self._runner.close()

    def run(self, shard: Shard) -> DownloadReport:
        """Fetch what is due in a shard and commit its ledger; nothing due, nothing committed.

        Every failure of an item is a status in the ledger. Raises StoreError when the
        catalogue was never ingested.
        """
        source = self._catalogue.latest()
        if source is None:
            raise StoreError(f"{self._name}/catalogue has no version yet; materialize it first")
        started = time.monotonic()
        folder = ImageFolder(source.properties["root"], self._settings.max_bytes)
        wanted = self._catalogue.read(source, shard=shard, columns=["id", "url"])
        base = self._table.latest()
        plan = ledger.plan(
            wanted,
            self._read(base, shard),
            now=ledger.utc_now(),
            stamp=folder.stamp,
            lost=self._store.blobs.lost(),
        )
        work = _Work()
        if plan.fetch:
            self._runner.run(self._fetch_all(shard, plan.fetch, folder, work, source))
        commit = self._complete(shard, source, wanted, work, removed=bool(plan.removed))
        rows = self._read(commit, shard)
        return DownloadReport(
            shard=shard.name,
            version=commit.version,
            items=rows.height,
            fetched=work.fetched,
            removed=len(plan.removed),
            bytes=work.bytes,
            seconds=time.monotonic() - started,
            statuses=dict(sorted(Counter(rows["status"].to_list()).items())),
            changed=base is None or commit.version != base.version,
            data_version=ledger.data_version(rows),
        )

    def _read(self, commit: Commit | None, shard: Shard) -> pl.DataFrame:
        rows = self._table.read(commit, shard=shard) if commit is not None else pl.DataFrame()
        return rows if rows.width else ledger.empty_ledger()

    # ---- fetching -------------------------------------------------------------------

    async def _fetch_all(
        self, shard: Shard, items: Sequence[Item], folder: ImageFolder, work: _Work, source: Commit
    ) -> None:
        queues = HostQueues(items, lambda item: host_of(item.url), self._settings.max_per_host)
        finished = asyncio.Event()

        async def work_on_queue(progress: Progress) -> None:
            while (item := await queues.take()) is not None:
                try:
                    row = await self._row(item, folder)
                finally:
                    queues.done(item)
                work.rows.append(row)
                work.fetched += 1
                work.bytes += row.get("bytes") or 0
                progress.advance(kind=row["status"])

        label = f"{self._name} shard {shard.name}"
        try:
            with Progress(label, len(items), self._log) as progress:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._commit_regularly(shard, source, work, finished))
                    async with asyncio.TaskGroup() as workers:
                        for _ in range(min(self._settings.concurrency, len(items))):
                            workers.create_task(work_on_queue(progress))
                    finished.set()
        except BaseException as error:
            # What was fetched before the failure or the cancellation is kept.
            self._append(shard, source, work)
            raise _innermost(error) from error

    async def _commit_regularly(
        self, shard: Shard, source: Commit, work: _Work, finished: asyncio.Event
    ) -> None:
        while not finished.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(finished.wait(), COMMIT_EVERY_SECONDS)
            if not finished.is_set():
                await asyncio.to_thread(self._append, shard, source, work)

    async def _row(self, item: Item, folder: ImageFolder) -> dict[str, Any]:
        """The ledger row that comes of an item, after retries within this run."""
        for attempt in range(self._settings.retries + 1):
            try:
                return await self._attempt(item, folder)
            except FetchError as error:
                if not is_transient(error.status) or attempt == self._settings.retries:
                    return self._failure(item, folder, error.status, error.detail)
                await asyncio.sleep(_backoff(attempt, error.retry_after))
            except ImageError as error:
                return self._failure(item, folder, error.status, error.detail)
        raise AssertionError("the last attempt returns")

    async def _attempt(self, item: Item, folder: ImageFolder) -> dict[str, Any]:
        if is_local(item.url):
            fetched = await asyncio.to_thread(folder.read, item.url)
        else:
            fetched = await self._fetcher.fetch(item.url)
        return await asyncio.to_thread(self._keep, item, fetched)

    def _keep(self, item: Item, fetched: Fetched) -> dict[str, Any]:
        header = read_header(fetched.data, self._settings.max_pixels)
        return {
            "id": item.id,
            "url": item.url,
            "status": OK,
            "transient": False,
            "attempts": 0,
            "etag": fetched.etag,
            "last_modified": fetched.last_modified,
            "sha256": self._store.blobs.put(fetched.data),
            "bytes": len(fetched.data),
            "width": header.width,
            "height": header.height,
            "format": header.format,
            "fetched_at": ledger.utc_now(),
        }

    def _failure(self, item: Item, folder: ImageFolder, status: str, detail: str) -> dict[str, Any]:
        row = ledger.failed(item, status, detail, ledger.utc_now())
        if is_local(item.url):
            row["etag"] = folder.stamp(item.url)
        return row

    # ---- committing -----------------------------------------------------------------

    def _append(self, shard: Shard, source: Commit, work: _Work) -> None:
        """Commit the rows at hand; they stay at hand when that fails."""
        rows = list(work.rows)
        if not rows:
            return
        self._store.blobs.flush()
        file = self._table.write_rows(ledger.as_rows(rows))

        def change(base: Commit | None) -> Draft:
            return self._draft(append_to_shard(base, shard, [file]), base, source)

        self._table.commit(change)
        del work.rows[: len(rows)]

    def _complete(
        self, shard: Shard, source: Commit, wanted: pl.DataFrame, work: _Work, *, removed: bool
    ) -> Commit:
        """Commit the rest, merged with what the shard had, as the shard's one complete file."""
        new = ledger.as_rows(work.rows)
        if new.height:
            self._store.blobs.flush()

        def change(base: Commit | None) -> Draft | None:
            if base is not None and not new.height and not removed and _is_complete(base, shard):
                return None
            rows = pl.concat([self._read(base, shard), new])
            rows = rows.unique(subset="id", keep="last", maintain_order=True)
            # A run on an older catalogue must not remove what a newer one has added.
            if base is None or base.inputs.get("catalogue", 0) <= source.version:
                rows = rows.join(wanted, on="id", how="semi")
            file = self._table.write_rows(rows.sort("id"))
            return self._draft(replace_shard(base, shard, [file]), base, source)

        commit = self._table.commit(change)
        if commit is None:
            raise AssertionError("the first run of a shard always commits")
        return commit

    def _draft(self, files: Sequence[Any], base: Commit | None, source: Commit) -> Draft:
        newest = max(source.version, base.inputs.get("catalogue", 0) if base else 0)
        return Draft(files, inputs={"catalogue": newest}, properties=ledger.PROPERTIES)


def _innermost(error: BaseException) -> BaseException:
    """The first error that a task group wrapped, so that a run fails with what went wrong."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _is_complete(base: Commit, shard: Shard) -> bool:
    own = base.of_shard(shard)
    return len(own) == 1 and own[0].complete


def _backoff(attempt: int, asked: float | None) -> float:
    """Seconds to wait before the next attempt: what the server asked for, else doubling."""
    if asked is not None:
        return min(asked, _LONGEST_BACKOFF_SECONDS)
    longest = min(0.5 * 2.0**attempt, _LONGEST_BACKOFF_SECONDS)
    return random.uniform(0.5, 1.0) * longest


def download(
    store: Store,
    name: str,
    settings: DownloadSettings,
    shards: Sequence[Shard],
    *,
    log: Log = silent,
) -> list[DownloadReport]:
    """Run the images stage for several shards in turn, over one HTTP client."""
    with ImagesStage(store, name, settings, log=log) as stage:
        return [stage.run(shard) for shard in shards]
