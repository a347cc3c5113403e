"""The images stage: fetch what a shard of a catalog lacks, and commit its ledger."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TextIO

import polars as pl

from imgsim_assets.download.files.image_folder import ImageFolder, below, is_web
from imgsim_assets.download.files.remote_objects import RemoteObjects
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.ledger import table as ledger
from imgsim_assets.download.ledger.summary import Summary
from imgsim_assets.download.ledger.table import Items
from imgsim_assets.download.scheduling.host_stats import HostStats
from imgsim_assets.download.settings import DownloadSettings, Retry
from imgsim_assets.download.shard_downloader import (
    Hosts,
    ShardDownloader,
    Sources,
    failure_of,
    wait_a_while,
)
from imgsim_assets.download.status import OK
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.progress import Log, Progress, silent
from imgsim_assets.storage.commit import (
    Commit,
    DataFile,
    PendingCommit,
    append_to_shard,
    is_compacted,
    replace_shard,
)
from imgsim_assets.storage.lease import Lease
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store

# A killed run loses at most what it fetched since the last commit.
COMMIT_EVERY_SECONDS = 5.0
# So many rows are committed before that, so that fast sources do not fill the memory with them.
_MOST_PENDING = 10_000
# Another stage that follows starts that much sooner, and has that much less left at the end.
_FOLLOWED_COMMIT_EVERY_SECONDS = 2.0
# Beyond so many appended files of a shard the next append merges some, so that commits stay small.
_MOST_APPENDED = 32
# A ledger is merged by ranges of ids of at least so many rows, in at most so many parts.
_PART_ROWS = 4096
_MOST_PARTS = 64
# Rows that are read together from a file that was appended: a range of ids takes a few of each.
_APPENDED_GROUP = 1024
# Rows that are Python objects before they become a frame.
_LOOSE_ROWS = 1024


@dataclass(frozen=True)
class DownloadReport:
    """What a run did for one shard.

    `statuses` counts every item of the shard. `requested` items were tried in this run: `fetched`
    of them arrived as images, `unchanged` were due for revalidation and keep their image, because
    the server confirmed it or because the request failed; the others failed.
    `hosts` are the ones that failed most and took longest, so far in the run.
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


_NOTHING = pl.DataFrame(schema={name: ledger.SCHEMA[name] for name in ("id", "url")})


class _Pending:
    """Ledger rows that are not committed yet: the last ones as they came, the others as frames.

    Only `forget` may be called from another thread than that of the event loop.
    """

    def __init__(self) -> None:
        self._loose: list[dict[str, Any]] = []
        self._frames: list[pl.DataFrame] = []

    def add(self, row: dict[str, Any]) -> None:
        """Take a row in."""
        self._loose.append(row)
        if len(self._loose) >= _LOOSE_ROWS:
            self._seal()

    def _seal(self) -> None:
        if self._loose:
            self._frames.append(ledger.ledger_frame(self._loose))
            self._loose = []

    @property
    def is_full(self) -> bool:
        """Whether they had better be committed now."""
        return len(self._frames) * _LOOSE_ROWS >= _MOST_PENDING

    def frames(self) -> list[pl.DataFrame]:
        """All rows so far."""
        self._seal()
        return list(self._frames)

    def forget(self, count: int) -> None:
        """Let go of the first frames."""
        del self._frames[:count]


@dataclass
class _Run:
    """A shard's run as it goes: what it works on, rows not committed yet, and totals.

    `elsewhere` are the items (id, url) that other runs have fetched since it began, and `news`
    the ids of those that they have tried since that was last asked for.
    `folder` is None for a catalog whose root lies on a web server: all it has are URLs,
    which are fetched like any others, guarded and with deadlines.
    """

    shard: Shard
    source: Commit
    wanted: pl.DataFrame
    folder: ImageFolder | None
    limits: str
    known_files: set[str] = field(default_factory=set)
    news: set[str] = field(default_factory=set)
    elsewhere: pl.DataFrame = field(default_factory=lambda: _NOTHING)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    pending: _Pending = field(default_factory=_Pending)
    is_fetched: bool = False
    requested: int = 0
    fetched: int = 0
    refreshed: int = 0
    bytes: int = 0
    started: datetime = field(default_factory=ledger.utc_now)
    clock: float = field(default_factory=time.monotonic)

    def take(self, row: dict[str, Any]) -> None:
        """Take the ledger row of an item in."""
        self.pending.add(row)
        self.requested += 1
        has_arrived = row["fetched_at"] >= self.started
        self.bytes += (row.get("bytes") or 0) if has_arrived else 0
        self.fetched += has_arrived and row["status"] == OK
        self.refreshed += row.get("checked_at") is not None and not has_arrived


class ImagesStage:
    """Fetches the shards of one catalog over one HTTP client.

    `retry` says which failures of earlier runs are tried again; `bar` is a terminal to draw
    the progress on; `on_row` is called after each item that was fetched or failed, `on_commit`,
    from any thread, after each commit in the middle of a shard. Use it as a context manager,
    outside of a running event loop.
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
        self._told: set[str] = set()
        self._table = ledger.ledger_table(store, name)
        self._catalog = store.table(f"{name}/items", key="id")
        self._fetcher = HttpClient(settings)
        self._objects = RemoteObjects(settings.allowed_url_prefixes, settings.max_bytes)
        self._hosts = Hosts(settings.circuit_breaker_threshold)
        self._runner = asyncio.Runner()
        self._fetching: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._runner.run(self._fetcher.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # What was interrupted goes on here, and may end by raising once more.
            self._runner.run(self._end_interrupted())
        finally:
            try:
                self._runner.run(self._fetcher.__aexit__(kind, error, trace))
            finally:
                self._runner.close()

    async def _end_interrupted(self) -> None:
        """Let a run that an interruption has left in the middle keep what it has fetched.

        Before the client is closed, lest it notes a failure of every item that still waits.
        """
        if self._fetching is not None and not self._fetching.done():
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def run(self, shard: Shard) -> DownloadReport:
        """Fetch what is due in a shard and commit its ledger; nothing due, nothing committed.

        Every failure of an item is a status in the ledger. Raises StoreError when the
        catalog was never ingested.
        """
        source = self._catalog.latest()
        if source is None:
            raise StoreError(f"{self._name}/items has no version yet; materialize it first")
        root = source.properties["root"]
        run = _Run(
            shard=shard,
            source=source,
            wanted=self._items(source, shard),
            folder=None if is_web(root) else ImageFolder(root, self._settings.max_bytes),
            limits=self._settings.limits(root),
        )
        base = self._table.latest()
        plan = self._plan(run, base)
        if len(plan.fetch):
            with self._lease(shard):
                newest = self._table.latest()
                if newest is not None and (base is None or newest.version > base.version):
                    base, plan = newest, self._plan(run, newest)
                if len(plan.fetch):
                    with _rare_collections():
                        self._runner.run(self._fetch_all(run, plan.fetch))
                    # Lest the list lies in memory beside the merged ledger.
                    plan, run.wanted = plan.done(), run.wanted.select("id")
                commit, summary = self._complete(run, removed=bool(plan.removed))
        else:
            commit, summary = self._complete(run, removed=bool(plan.removed))
        return DownloadReport(
            shard=shard.name,
            version=commit.version,
            items=summary.items,
            requested=run.requested,
            fetched=run.fetched,
            removed=len(plan.removed),
            bytes=run.bytes,
            seconds=time.monotonic() - run.clock,
            statuses=summary.statuses,
            changed=base is None or commit.version != base.version,
            data_version=summary.data_version,
            unchanged=run.refreshed,
            revalidation_errors=summary.revalidation_errors,
            hosts=self._hosts.tallies.worst(),
            hosts_skipped=self._hosts.given_up(),
        )

    def _plan(self, run: _Run, base: Commit | None) -> ledger.Plan:
        """What there is to do, without what another run has tried since this one began."""
        known = self._read(base, run.shard)
        plan = ledger.plan(
            run.wanted,
            known,
            now=run.started,
            stamp=run.folder.stamps(run.wanted["url"]) if run.folder is not None else None,
            lost=self._store.blobs.missing(),
            holds=self._store.blobs.contains,
            same_settings=_limits_of(base, run.shard) <= {run.limits},
            retry=self._retry,
            refresh_age=self._settings.refresh_age,
        )
        if base is not None:
            run.known_files.update(file.path for file in base.row_files_for_shard(run.shard))
        tried = known.filter(pl.col("fetched_at") >= run.started).select("id", "url")
        return replace(plan, fetch=plan.fetch.without(tried)) if tried.height else plan

    def _lease(self, shard: Shard) -> Lease:
        return Lease(
            self._store.files,
            f"{self._table.name}/_leases/{shard.name}-of-{shard.count}",
            work=f"{self._name} shard {shard.name}",
            log=self._log,
        )

    def _items(self, source: Commit, shard: Shard) -> pl.DataFrame:
        """A shard's items by a version of the catalog: id, and the url as it is fetched."""
        rows = self._catalog.read(source, shard=shard, columns=["id", "url"])
        root = source.properties["root"]
        if not is_web(root):
            return rows
        urls = [below(root, url) for url in rows["url"].to_list()]
        return rows.with_columns(pl.Series("url", urls, dtype=pl.String))

    def _read(self, commit: Commit | None, shard: Shard) -> pl.DataFrame:
        """A shard's ledger; what a damaged file held is fetched anew."""
        if commit is None:
            return ledger.empty_ledger()
        return ledger.with_all_columns(
            self._table.read(commit, shard=shard, on_corrupt=self._tell_once)
        )

    def _ids(self, commit: Commit, shard: Shard) -> pl.DataFrame:
        """The ids that a shard's ledger has."""
        ids = self._table.read(commit, shard=shard, columns=["id"], on_corrupt=self._tell_once)
        return ledger.with_all_columns(ids).select("id")

    def _newest(
        self, base: Commit | None, shard: Shard, ids: pl.DataFrame, new: pl.DataFrame
    ) -> Iterator[pl.DataFrame]:
        """The newest rows of these ids in a shard's ledger and behind it, sorted, in parts."""
        with contextlib.ExitStack() as files:
            read = None
            if base is not None:
                opened = self._table.open_range_reader(
                    base, shard=shard, on_corrupt=self._tell_once
                )
                read = files.enter_context(opened)
            for part in _parts(ids):
                first, last = (part["id"][0], part["id"][-1]) if part.height else ("", "")
                in_range = pl.col("id").is_between(pl.lit(first), pl.lit(last))
                known = [ledger.with_all_columns(read((first, last)))] if read is not None else []
                rows = _latest([*known, new.filter(in_range)])
                yield rows.filter(pl.col("id").is_in(part["id"].implode()))

    def _summary(self, commit: Commit, shard: Shard) -> Summary:
        """What a shard's ledger, read in parts, comes to."""
        summary = Summary()
        ids = self._ids(commit, shard)
        for rows in self._newest(commit, shard, ids, ledger.empty_ledger()):
            summary.add(rows)
        return summary

    # ---- fetching -------------------------------------------------------------------

    async def _fetch_all(self, run: _Run, items: Items) -> None:
        self._fetching = asyncio.current_task()
        wake = asyncio.Event()
        label = f"{self._name} shard {run.shard.name}"
        try:
            with Progress(label, len(items), self._log, tty=self._bar) as progress:
                crawl = self._crawl(run, items, progress, wake)
                async with asyncio.TaskGroup() as group:
                    regularly = self._commit_regularly(run, crawl, progress, wake)
                    group.create_task(regularly)
                    await crawl.run()
                    run.is_fetched = True
                    wake.set()
        except BaseException as error:
            # What was fetched before the failure or the cancellation is kept.
            self._append(run, run.pending.frames())
            raise _innermost(error) from error

    def _crawl(
        self, run: _Run, items: Items, progress: Progress, wake: asyncio.Event
    ) -> ShardDownloader:
        settings = self._settings

        def keep_rows(rows: Sequence[dict[str, Any]]) -> None:
            for row in rows:
                run.take(row)
            if run.pending.is_full:
                wake.set()
            for kind, count in Counter(failure_of(row) or OK for row in rows).items():
                progress.advance(count, kind=kind)
            if self._on_row is not None:
                for _ in rows:
                    self._on_row()

        return ShardDownloader(
            items,
            settings,
            sources=Sources(self._fetcher, run.folder, self._objects, settings),
            blobs=self._store.blobs,
            hosts=self._hosts,
            keep_rows=keep_rows,
            log=self._log,
        )

    async def _commit_regularly(
        self, run: _Run, crawl: ShardDownloader, progress: Progress, wake: asyncio.Event
    ) -> None:
        """Commit every few seconds, and whenever it is woken, until everything is fetched."""
        pause = COMMIT_EVERY_SECONDS
        if self._on_commit is not None:
            pause = min(pause, _FOLLOWED_COMMIT_EVERY_SECONDS)
        while not run.is_fetched:
            if not run.pending.is_full:
                wake.clear()
                await wait_a_while(wake, pause)
            if not run.is_fetched:
                taken = run.pending.frames()
                elsewhere = await asyncio.to_thread(self._append, run, taken)
                if elsewhere:
                    progress.advance(crawl.leave_out(elsewhere), kind="by another run")

    # ---- committing -----------------------------------------------------------------

    def _append(self, run: _Run, taken: Sequence[pl.DataFrame]) -> set[str]:
        """Commit the first of the pending rows; they stay pending when that fails.

        Returns the ids that another run on this shard has fetched since the last time.
        """
        if not taken:
            return set()
        self._store.blobs.flush()
        rows = pl.concat(taken)

        def change(base: Commit | None) -> PendingCommit:
            worth_keeping = self._worth_keeping(run, base, rows)
            appended = _appended(base, run.shard)
            if base is None or len(appended) <= _MOST_APPENDED:
                file = self._write(run, None, worth_keeping)
                file = file.with_metadata(limits=run.limits, run=run.token)
                return self._draft(run, base, append_to_shard(base, run.shard, [file]))
            merged = _no_larger(appended)
            notes = [*(file.metadata for file in merged), {"limits": run.limits, "run": run.token}]
            file = self._write(run, replace(base, files=tuple(merged)), worth_keeping)
            file = file.with_metadata(**_common(notes))
            rest = replace(base, files=tuple(file for file in base.files if file not in merged))
            return self._draft(run, base, append_to_shard(rest, run.shard, [file]))

        commit = self._table.commit(change)
        run.pending.forget(len(taken))
        if self._on_commit is not None:
            self._on_commit(run.shard)
        self._look_elsewhere(run, commit)
        elsewhere, run.news = run.news, set()
        return elsewhere

    def _look_elsewhere(self, run: _Run, base: Commit | None) -> None:
        """Take note of what other runs have fetched, in files that were not looked at before."""
        files = base.row_files_for_shard(run.shard) if base is not None else []
        unseen = [file for file in files if file.path not in run.known_files]
        run.known_files.update(file.path for file in files)
        for file in unseen:
            if file.metadata.get("run") != run.token:
                rows = self._rows_of(file).filter(pl.col("fetched_at") >= run.started)
                run.news.update(rows["id"])
                fetched = rows.filter(pl.col("status") == OK).select("id", "url")
                run.elsewhere = pl.concat([run.elsewhere, fetched])

    def _rows_of(self, file: DataFile) -> pl.DataFrame:
        """A file's rows; none when it is damaged, which is said."""
        try:
            return ledger.with_all_columns(self._table.read_file(file))
        except CorruptFileError as error:
            self._tell_once(str(error))
            return ledger.empty_ledger()

    def _tell_once(self, damage: str) -> None:
        """Log a damage that is met by every reading of a part of the ledger."""
        if damage not in self._told:
            self._told.add(damage)
            self._log(damage)

    def _complete(self, run: _Run, *, removed: bool) -> tuple[Commit, Summary]:
        """Commit the rest, merged with what the shard had, as the shard's one complete file."""
        new = pl.concat([ledger.empty_ledger(), *run.pending.frames()])
        with ThreadPoolExecutor(1, thread_name_prefix="flush") as beside:
            # The disk syncs the images while the ledger is merged, which is committed after that.
            flushed = beside.submit(self._store.blobs.flush) if new.height else None
            return self._commit_merged(run, new, flushed, removed=removed)

    def _commit_merged(
        self, run: _Run, new: pl.DataFrame, flushed: Future[None] | None, *, removed: bool
    ) -> tuple[Commit, Summary]:
        summary: Summary | None = None

        def change(base: Commit | None) -> PendingCommit | None:
            nonlocal summary
            summary = None
            has_changed = new.height or removed
            if base is not None and not has_changed and self._is_whole(base, run.shard):
                return None
            kept = self._worth_keeping(run, base, new)
            summary = Summary()
            ids = self._newest_wanted(run).select("id")
            rows = _summed(self._newest(base, run.shard, ids, kept), summary)
            file = self._table.write_sorted_chunks(rows).with_metadata(limits=run.limits)
            if flushed is not None:
                flushed.result()
            return self._draft(run, base, replace_shard(base, run.shard, [file]))

        commit = self._table.commit(change)
        if commit is None:
            raise AssertionError("the first run of a shard always commits")
        return commit, summary or self._summary(commit, run.shard)

    def _write(self, run: _Run, base: Commit | None, new: pl.DataFrame) -> DataFile:
        """A file of new rows, and what a shard had, that is to be read by ranges of ids."""
        known = [self._ids(base, run.shard)] if base is not None else []
        ids = pl.concat([*known, new.select("id")]).unique()
        rows = self._newest(base, run.shard, ids, new)
        return self._table.write_sorted_chunks(rows, row_group_size=_APPENDED_GROUP)

    def _is_whole(self, base: Commit, shard: Shard) -> bool:
        """Whether a shard's ledger is one complete file, and that file is whole."""
        return is_compacted(base, shard) and self._table.verify_checksums(base, shard=shard)

    def _newest_wanted(self, run: _Run) -> pl.DataFrame:
        """The shard's items (id, url) by the newest catalog, which may be newer than ours."""
        newest = self._catalog.latest()
        if newest is None or newest.version <= run.source.version:
            return run.wanted
        return self._items(newest, run.shard)

    def _worth_keeping(self, run: _Run, base: Commit | None, new: pl.DataFrame) -> pl.DataFrame:
        """New rows that another run, on this shard at the same time, has not outdated.

        Left out are rows of URLs that the catalog no longer has, and failures of URLs that
        the other run has fetched since this one began.
        """
        wanted = self._newest_wanted(run)
        current = new if wanted is run.wanted else new.join(wanted, on=["id", "url"], how="semi")
        self._look_elsewhere(run, base)
        if not run.elsewhere.height:
            return current
        has_failed = (pl.col("status") != OK) | pl.col("revalidation_error").is_not_null()
        succeeded = current.filter(~has_failed)
        failed = current.filter(has_failed)
        return pl.concat([succeeded, failed.join(run.elsewhere, on=["id", "url"], how="anti")])

    def _draft(self, run: _Run, base: Commit | None, files: Sequence[DataFile]) -> PendingCommit:
        seen = base.inputs.get("items", 0) if base is not None else 0
        return PendingCommit(
            files,
            inputs={"items": max(run.source.version, seen)},
            properties=ledger.PROPERTIES,
        )


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Let Python look for cycles among the new objects alone, and less often.

    Requests make many short-lived objects and next to no cycles. Looking as often as usual, and
    through all that the process holds, takes a tenth of the time.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _summed(parts: Iterable[pl.DataFrame], summary: Summary) -> Iterator[pl.DataFrame]:
    """The parts of a ledger, which the summary takes in as they pass."""
    for rows in parts:
        summary.add(rows)
        yield rows


def _parts(ids: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The ids, sorted, in parts: one at least, few however many they are."""
    rows = max(_PART_ROWS, -(-ids.height // _MOST_PARTS))
    yield from ids.sort("id").iter_slices(rows) if ids.height else [ids]


def _latest(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All rows sorted by id, a later one of an id replacing an earlier one."""
    rows = pl.concat(frames).sort("id", maintain_order=True)
    return rows.filter(pl.col("id").ne_missing(pl.col("id").shift(-1)))


def _appended(base: Commit | None, shard: Shard) -> list[DataFile]:
    """The files with a shard's rows that have arrived since it was last complete."""
    files = base.files_of_shard(shard) if base is not None else []
    return [file for file in files if not file.is_snapshot]


def _no_larger(appended: Sequence[DataFile]) -> list[DataFile]:
    """The last files, as far back as none is much larger than those behind it together.

    Merging them alone writes every row a few times only, however many there are.
    """
    merged: list[DataFile] = []
    rows = 0
    for file in reversed(appended):
        if merged and (file.rows or 0) > 2 * rows:
            break
        merged.append(file)
        rows += file.rows or 0
    return merged[::-1]


def _common(notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several files have noted alike."""
    first = notes[0]
    return {key: first[key] for key in first if all(note.get(key) == first[key] for note in notes)}


def _limits_of(base: Commit | None, shard: Shard) -> set[str | None]:
    """The digests of the limits under which a shard's rows were made, None for unknown ones.

    They are several after a run that was interrupted, and after the number of shards changed.
    """
    if base is None:
        return set()
    return {file.metadata.get("limits") for file in base.row_files_for_shard(shard)}


def _innermost(error: BaseException) -> BaseException:
    """The first error that a task group wrapped, so that a run fails with what went wrong."""
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
    """Run the images stage for several shards in turn, over one HTTP client."""
    with ImagesStage(store, name, settings, retry=retry, log=log, bar=bar) as stage:
        return [stage.run(shard) for shard in shards]
