"""The images stage: fetch what a shard of a catalogue lacks, and commit its ledger."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import polars as pl

from imgsim_assets.download import ledger
from imgsim_assets.download.fetcher import Fetched, Fetcher, host_of
from imgsim_assets.download.hosts import HostQueues
from imgsim_assets.download.ledger import Item
from imgsim_assets.download.local import ImageFolder, below, is_local
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import OK, FetchError, is_transient
from imgsim_assets.errors import StoreError
from imgsim_assets.images.header import ImageError, read_header
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import (
    Commit,
    DataFile,
    Draft,
    append_to_shard,
    is_complete,
    replace_shard,
)

# A killed run loses at most what it fetched since the last commit.
COMMIT_EVERY_SECONDS = 5.0
_LONGEST_BACKOFF_SECONDS = 30.0
# More files of a shard than this are merged by the next append, so that commits stay small.
_MOST_APPENDED = 32


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
class _Run:
    """A shard's run as it goes: what it works on, rows not committed yet, and totals.

    `folder` is None for a catalogue whose root lies on a web server: all it has are URLs,
    which are fetched like any others, guarded and with deadlines.
    """

    shard: Shard
    source: Commit
    wanted: pl.DataFrame
    folder: ImageFolder | None
    limits: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    fetched: int = 0
    bytes: int = 0
    started: datetime = field(default_factory=ledger.utc_now)
    clock: float = field(default_factory=time.monotonic)


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
        root = source.properties["root"]
        run = _Run(
            shard=shard,
            source=source,
            wanted=self._items(source, shard),
            folder=ImageFolder(root, self._settings.max_bytes) if is_local(root) else None,
            limits=self._settings.limits(root),
        )
        base = self._table.latest()
        plan = ledger.plan(
            run.wanted,
            self._read(base, shard),
            now=run.started,
            stamp=run.folder.stamp if run.folder is not None else None,
            lost=self._store.blobs.lost(),
            same_settings=_limits_of(base, shard) <= {run.limits},
        )
        if plan.fetch:
            self._runner.run(self._fetch_all(run, plan.fetch))
        commit = self._complete(run, removed=bool(plan.removed))
        rows = self._read(commit, shard)
        return DownloadReport(
            shard=shard.name,
            version=commit.version,
            items=rows.height,
            fetched=run.fetched,
            removed=len(plan.removed),
            bytes=run.bytes,
            seconds=time.monotonic() - run.clock,
            statuses=dict(sorted(Counter(rows["status"].to_list()).items())),
            changed=base is None or commit.version != base.version,
            data_version=ledger.data_version(rows),
        )

    def _items(self, source: Commit, shard: Shard) -> pl.DataFrame:
        """A shard's items by a version of the catalogue: id, and the url as it is fetched."""
        rows = self._catalogue.read(source, shard=shard, columns=["id", "url"])
        root = source.properties["root"]
        if is_local(root):
            return rows
        urls = [below(root, url) for url in rows["url"].to_list()]
        return rows.with_columns(pl.Series("url", urls, dtype=pl.String))

    def _read(self, commit: Commit | None, shard: Shard) -> pl.DataFrame:
        """A shard's ledger; what a damaged file held is fetched anew."""
        if commit is None:
            return ledger.empty_ledger()
        rows = self._table.read(commit, shard=shard, skip_damaged=self._log)
        return rows if rows.width else ledger.empty_ledger()

    # ---- fetching -------------------------------------------------------------------

    async def _fetch_all(self, run: _Run, items: Sequence[Item]) -> None:
        queues = HostQueues(items, lambda item: host_of(item.url), self._settings.max_per_host)
        finished = asyncio.Event()

        async def work_on_queue(progress: Progress) -> None:
            while (item := await queues.take()) is not None:
                try:
                    row = await self._row(run, item)
                finally:
                    queues.done(item)
                run.rows.append(row)
                run.fetched += 1
                run.bytes += row.get("bytes") or 0
                progress.advance(kind=row["status"])

        label = f"{self._name} shard {run.shard.name}"
        try:
            with Progress(label, len(items), self._log) as progress:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._commit_regularly(run, finished))
                    async with asyncio.TaskGroup() as workers:
                        for _ in range(min(self._settings.concurrency, len(items))):
                            workers.create_task(work_on_queue(progress))
                    finished.set()
        except BaseException as error:
            # What was fetched before the failure or the cancellation is kept.
            self._append(run)
            raise _innermost(error) from error

    async def _commit_regularly(self, run: _Run, finished: asyncio.Event) -> None:
        while not finished.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(finished.wait(), COMMIT_EVERY_SECONDS)
            if not finished.is_set():
                await asyncio.to_thread(self._append, run)

    async def _row(self, run: _Run, item: Item) -> dict[str, Any]:
        """The ledger row that comes of an item, after retries within this run."""
        for attempt in range(self._settings.retries + 1):
            try:
                return await self._attempt(run, item)
            except FetchError as error:
                wait = _backoff(attempt, error.retry_after)
                is_last = attempt == self._settings.retries or wait > _LONGEST_BACKOFF_SECONDS
                if is_last or not is_transient(error.status):
                    return ledger.failed(item, error, ledger.utc_now())
                await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns")

    async def _attempt(self, run: _Run, item: Item) -> dict[str, Any]:
        try:
            if run.folder is not None and is_local(item.url):
                fetched = await asyncio.to_thread(run.folder.read, item.url)
            else:
                fetched = await self._fetcher.fetch(item.url)
        except FetchError:
            raise
        except Exception as error:
            # One item that meets a mistake of a library or of ours must not end the others.
            self._log(f"{item.id}: {type(error).__name__}: {error}")
            raise FetchError("error", f"{type(error).__name__}: {error}") from error
        try:
            return await asyncio.to_thread(self._keep, item, fetched)
        except ImageError as error:
            raise FetchError(error.status, error.detail, etag=fetched.etag) from error

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

    # ---- committing -----------------------------------------------------------------

    def _append(self, run: _Run) -> None:
        """Commit the rows at hand; they stay at hand when that fails."""
        taken = list(run.rows)
        if not taken:
            return
        self._store.blobs.flush()
        rows = ledger.as_rows(taken)

        def change(base: Commit | None) -> Draft:
            worth_keeping = self._worth_keeping(run, base, rows)
            if base is None or len(base.of_shard(run.shard)) <= _MOST_APPENDED:
                file = self._table.write_rows(worth_keeping).noted(limits=run.limits)
                return self._draft(run, base, append_to_shard(base, run.shard, [file]))
            merged = _latest([self._read(base, run.shard), worth_keeping])
            same = _limits_of(base, run.shard) <= {run.limits}
            file = self._table.write_rows(merged).noted(limits=run.limits if same else None)
            return self._draft(run, base, replace_shard(base, run.shard, [file]))

        self._table.commit(change)
        del run.rows[: len(taken)]

    def _complete(self, run: _Run, *, removed: bool) -> Commit:
        """Commit the rest, merged with what the shard had, as the shard's one complete file."""
        new = ledger.as_rows(run.rows)
        if new.height:
            self._store.blobs.flush()

        def change(base: Commit | None) -> Draft | None:
            has_changed = new.height or removed
            if base is not None and not has_changed and self._is_whole(base, run.shard):
                return None
            rows = _latest([self._read(base, run.shard), self._worth_keeping(run, base, new)])
            rows = rows.join(self._newest_wanted(run), on="id", how="semi").sort("id")
            file = self._table.write_rows(rows).noted(limits=run.limits)
            return self._draft(run, base, replace_shard(base, run.shard, [file]))

        commit = self._table.commit(change)
        if commit is None:
            raise AssertionError("the first run of a shard always commits")
        return commit

    def _is_whole(self, base: Commit, shard: Shard) -> bool:
        """Whether a shard's ledger is one complete file, and that file is whole."""
        return is_complete(base, shard) and self._table.is_whole(base, shard=shard)

    def _newest_wanted(self, run: _Run) -> pl.DataFrame:
        """The shard's items (id, url) by the newest catalogue, which may be newer than ours."""
        newest = self._catalogue.latest()
        if newest is None or newest.version <= run.source.version:
            return run.wanted
        return self._items(newest, run.shard)

    def _worth_keeping(self, run: _Run, base: Commit | None, new: pl.DataFrame) -> pl.DataFrame:
        """New rows that another run, on this shard at the same time, has not outdated.

        Left out are rows of URLs that the catalogue no longer has, and failures of URLs that
        the other run has fetched since this one began.
        """
        current = new.join(self._newest_wanted(run), on=["id", "url"], how="semi")
        if base is None or not current.height:
            return current
        fetched_since = self._read(base, run.shard).filter(
            (pl.col("status") == OK) & (pl.col("fetched_at") >= run.started)
        )
        succeeded = current.filter(pl.col("status") == OK)
        failed = current.filter(pl.col("status") != OK)
        return pl.concat([succeeded, failed.join(fetched_since, on=["id", "url"], how="anti")])

    def _draft(self, run: _Run, base: Commit | None, files: Sequence[DataFile]) -> Draft:
        seen = base.inputs.get("catalogue", 0) if base is not None else 0
        return Draft(
            files,
            inputs={"catalogue": max(run.source.version, seen)},
            properties=ledger.PROPERTIES,
        )


def _latest(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All rows, a later one of an id replacing an earlier one."""
    return pl.concat(frames).unique(subset="id", keep="last", maintain_order=True)


def _limits_of(base: Commit | None, shard: Shard) -> set[str | None]:
    """The digests of the limits under which a shard's rows were made, None for unknown ones.

    They are several after a run that was interrupted, and after the number of shards changed.
    """
    files = base.with_role() if base is not None else []
    return {
        file.note.get("limits")
        for file in files
        if file.layout != shard.count or file.shard == shard.index
    }


def _innermost(error: BaseException) -> BaseException:
    """The first error that a task group wrapped, so that a run fails with what went wrong."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _backoff(attempt: int, asked: float | None) -> float:
    """Seconds to wait before the next attempt: what the server asked for, else doubling."""
    if asked is not None:
        return asked
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
