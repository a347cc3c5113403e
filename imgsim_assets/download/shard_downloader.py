"""Fetching many items at once, each ending as a ledger row, with manners towards the hosts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from array import array
from collections.abc import Callable, Iterable, Sequence, Set
from datetime import datetime
from typing import Any, NamedTuple

from imgsim_assets.download.files.daemon_threads import DaemonThreadPool
from imgsim_assets.download.files.image_folder import ImageFolder, is_local, is_web
from imgsim_assets.download.files.remote_objects import RemoteObjects
from imgsim_assets.download.http.client import Fetched, HttpClient, Version, host_of
from imgsim_assets.download.image_writer import ImageWriter, Kept
from imgsim_assets.download.ledger import table as ledger
from imgsim_assets.download.ledger.table import Item, Items
from imgsim_assets.download.scheduling.circuit_breaker import Breaker, State
from imgsim_assets.download.scheduling.host_queues import HostQueues
from imgsim_assets.download.scheduling.host_stats import Tallies
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import BY_HOST, OK, SKIPPED_HOST, FetchError, is_retryable
from imgsim_assets.images.header import ImageError
from imgsim_assets.progress import Log
from imgsim_assets.storage.blobs import Blobs

LONGEST_BACKOFF_SECONDS = 30.0
# How often it is looked whether requests wait for silent servers.
_LOOK_SECONDS = 0.25
_FIRST_BACKOFF_SECONDS = 0.5

Row = dict[str, Any]


class Hosts:
    """What is known of the hosts during one run, over all its shards."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._breakers: dict[str, Breaker] = {}
        self.tallies = Tallies()

    def breaker(self, host: str) -> Breaker:
        """The host's breaker."""
        found = self._breakers.get(host)
        if found is None:
            found = self._breakers[host] = Breaker(self._threshold)
        return found

    def given_up(self) -> list[str]:
        """The hosts that are asked nothing more, by name."""
        return sorted(
            host for host, breaker in self._breakers.items() if breaker.state is State.GIVEN_UP
        )


class Sources:
    """Where an item's bytes come from, by the kind of its url."""

    def __init__(
        self,
        fetcher: HttpClient,
        folder: ImageFolder | None,
        objects: RemoteObjects,
        settings: DownloadSettings,
    ) -> None:
        self._fetcher = fetcher
        self._folder = folder
        self._objects = objects
        self._timeout = settings.timeout_s
        # One for each, so that an object store that is silent keeps no file waiting.
        self._files_readers = DaemonThreadPool(settings.concurrency)
        self._objects_readers = DaemonThreadPool(settings.concurrency)

    def close(self) -> None:
        """Wait for nothing more."""
        self._files_readers.close()
        self._objects_readers.close()

    def quiet(self) -> int:
        """How many requests wait for a server that says nothing."""
        return self._fetcher.quiet()

    async def fetch(self, item: Item) -> Fetched:
        """The item's bytes, or None in their place when the held version is the newest."""
        held = item.held
        version = Version(held["etag"], held["last_modified"]) if held is not None else None
        if is_web(item.url):
            return await self._fetcher.fetch(item.url, version)
        try:
            async with asyncio.timeout(self._timeout):
                if self._folder is not None and is_local(item.url):
                    return await self._files_readers.call(self._folder.read, item.url)
                return await self._objects_readers.call(self._objects.read, item.url, version)
        except TimeoutError:
            raise FetchError("timeout", f"not done in {self._timeout:g} s") from None


class _Answer(NamedTuple):
    """An item whose bytes have come, and the host that had it."""

    item: Item
    host: str
    fetched: Fetched


class ShardDownloader:
    """One pass over the items of a shard.

    `keep_rows` takes the items' ledger rows as they come about.
    """

    def __init__(
        self,
        items: Items,
        settings: DownloadSettings,
        *,
        sources: Sources,
        blobs: Blobs,
        hosts: Hosts,
        keep_rows: Callable[[Sequence[Row]], None],
        log: Log,
    ) -> None:
        rate = settings.max_requests_per_second_per_host
        self._settings = settings
        self._sources = sources
        self._keeper: ImageWriter[_Answer] = ImageWriter(
            blobs, settings.max_pixels, self._take_kept
        )
        self._hosts = hosts
        self._keep_rows = keep_rows
        self._log = log
        self._items = items
        self._wanted = self._at_work = 0
        self._is_done = asyncio.Event()
        self._tries: dict[int, int] = {}
        self._errors: dict[int, FetchError] = {}
        # Items wait as their numbers in the list, each with the number of its host.
        hosts_seen: dict[str, int] = {}
        self._host_numbers = array(
            "I", (hosts_seen.setdefault(host_of(url), len(hosts_seen)) for url in items.urls())
        )
        self._host_names = list(hosts_seen)
        self._queues = HostQueues(
            range(len(items)),
            self._host,
            settings.max_per_host,
            interval=1 / rate if rate else 0.0,
        )

    async def run(self) -> None:
        """Fetch everything; every failure of an item is a row."""
        with contextlib.closing(self._sources):
            async with self._keeper, asyncio.TaskGroup() as workers:
                while not self._is_done.is_set():
                    self._employ(workers)
                    await wait_a_while(self._is_done, _LOOK_SECONDS)

    def _employ(self, workers: asyncio.TaskGroup) -> None:
        """Have as many workers as requests may be under way, beside those that wait in silence.

        So that servers that accept and say nothing do not slow the others; but twice as many at
        most.
        """
        usual = self._settings.concurrency
        self._wanted = usual + min(self._sources.quiet(), usual)
        for _ in range(self._at_work, min(self._wanted, max(len(self._items), 1))):
            self._at_work += 1
            workers.create_task(self._work())

    def leave_out(self, ids: Set[str]) -> int:
        """Leave out items that another run has fetched; returns how many still waited."""
        return self._queues.leave_out(lambda number: self._items[number].id in ids)

    def _host(self, number: int) -> str:
        return self._host_names[self._host_numbers[number]]

    async def _work(self) -> None:
        while self._at_work <= self._wanted:
            number = await self._queues.take()
            if number is None:
                self._is_done.set()
                break
            await self._treat(number)
        self._at_work -= 1

    async def _treat(self, number: int) -> None:
        """Try an item, until it is fetched, put back for later, or failed."""
        item = self._items[number]
        host = self._host(number)
        breaker = self._hosts.breaker(host)
        if breaker.state is State.GIVEN_UP:
            self._leave(host, [number, *self._queues.drop(host)], breaker)
            self._queues.done(number)
            return
        is_probe = breaker.probe()
        started = time.monotonic()
        fetched: Fetched | None = None
        try:
            fetched = await self._sources.fetch(item)
        except FetchError as error:
            failure = error
        except Exception as error:
            # One item that meets a mistake of a library or of ours must not end the others.
            failure = FetchError("internal_error", f"{type(error).__name__}: {error}")
            self._log(f"{item.id}: {failure.detail}")
        self._hosts.tallies.requested(host, time.monotonic() - started)
        if fetched is None:
            self._note_failure(host, breaker, failure, is_probe=is_probe)
            self._retry_or_fail(number, item, host, failure)
            return
        if breaker.succeeded():
            self._log(f"{host or 'the local files'} answers again")
            self._queues.narrow(host, to_one=False)
        self._queues.done(number)
        if fetched.data is None:
            self._finish([(host, ledger.confirmed(item, ledger.utc_now()))])
        else:
            await self._keeper.put(_Answer(item, host, fetched), fetched.data)

    def _take_kept(self, results: Sequence[tuple[_Answer, Kept | ImageError]]) -> None:
        now = ledger.utc_now()
        self._finish([(answer.host, _row(answer, kept, now)) for answer, kept in results])

    def _finish(self, done: Sequence[tuple[str, Row]]) -> None:
        """Count items that are done with at their hosts, and hand their rows over."""
        for host, row in done:
            self._hosts.tallies.finished(host, failure_of(row))
        self._keep_rows([row for _, row in done])

    # ---- failures -------------------------------------------------------------------

    def _retry_or_fail(self, number: int, item: Item, host: str, error: FetchError) -> None:
        """Put the item back for another try in this run, or leave it to a later one."""
        tries = self._tries.get(number, 0) + 1
        wait = backoff(tries - 1, error.retry_after)
        may_retry = (
            is_retryable(error.status)
            and tries <= self._settings.retries
            and wait <= LONGEST_BACKOFF_SECONDS
            and self._hosts.breaker(host).state is not State.GIVEN_UP
        )
        if may_retry:
            self._tries[number] = tries
            self._errors[number] = error
            self._queues.put_back(number, wait)
            return
        self._tries.pop(number, None)
        self._errors.pop(number, None)
        self._finish([(host, ledger.failed(item, error, ledger.utc_now()))])
        self._queues.done(number)

    def _note_failure(
        self, host: str, breaker: Breaker, error: FetchError, *, is_probe: bool
    ) -> None:
        if error.status not in BY_HOST or not host:
            if breaker.succeeded():  # an answer of its own is an answer
                self._queues.narrow(host, to_one=False)
            return
        if error.status == "rate_limited":
            self._slow_down(host, breaker, error)
        if not breaker.failed(str(error)[:200], is_probe=is_probe):
            return
        if breaker.state is State.OPEN:
            pause = self._settings.circuit_breaker_cooldown_s
            self._log(
                f"{host}: {breaker.failures} failures in a row, the last: {breaker.reason}; "
                f"one more try after {pause:g} s"
            )
            self._queues.narrow(host, to_one=True)
            self._queues.pause(host, pause)
        else:
            self._give_up(host, breaker)

    def _slow_down(self, host: str, breaker: Breaker, error: FetchError) -> None:
        """A host that says it is asked too much is asked nothing for a while."""
        wait = backoff(0, error.retry_after)
        if wait <= LONGEST_BACKOFF_SECONDS:
            self._queues.pause(host, wait)
        elif breaker.state is not State.GIVEN_UP:
            breaker.give_up(f"it asks to be left alone for {wait:.0f} s", wait)
            self._give_up(host, breaker)

    def _give_up(self, host: str, breaker: Breaker) -> None:
        waiting = self._queues.drop(host)
        self._log(f"{host} is given up for this run, with {len(waiting)} items: {breaker.reason}")
        self._leave(host, waiting, breaker)

    def _leave(self, host: str, numbers: Iterable[int], breaker: Breaker) -> None:
        """Rows for items of a host that was given up: what they had met, or that of the host."""
        now = ledger.utc_now()
        for number in numbers:
            untried = FetchError(SKIPPED_HOST, f"not tried: {breaker.reason}", breaker.retry_after)
            self._tries.pop(number, None)
            error = self._errors.pop(number, untried)
            self._finish([(host, ledger.failed(self._items[number], error, now))])


async def wait_a_while(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, for so long at most.

    Unlike `asyncio.wait_for` of Python 3.11, which lets a cancellation go unnoticed when the
    event comes about in the same moment.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _row(answer: _Answer, kept: Kept | ImageError, now: datetime) -> Row:
    item, _, fetched = answer
    if isinstance(kept, ImageError):
        failure = FetchError(kept.status, kept.detail, etag=fetched.etag)
        return ledger.failed(item, failure, now)
    return {
        "id": item.id,
        "url": item.url,
        "status": OK,
        "retryable": False,
        "attempts": 0,
        "etag": fetched.etag,
        "last_modified": fetched.last_modified,
        "sha256": kept.sha256,
        "bytes": len(fetched.data or b""),
        "width": kept.header.width,
        "height": kept.header.height,
        "format": kept.header.format,
        "fetched_at": now,
        "checked_at": now,
    }


def failure_of(row: Row) -> str | None:
    """The status by which an item failed, though perhaps its earlier image is kept."""
    status: str = row.get("revalidation_error") or row["status"]
    return None if status == OK else status


def backoff(attempt: int, asked: float | None) -> float:
    """Seconds to wait before the next attempt: what the server asked for, else doubling."""
    if asked is not None:
        return asked
    longest = min(_FIRST_BACKOFF_SECONDS * 2.0**attempt, LONGEST_BACKOFF_SECONDS)
    return random.uniform(0.5, 1.0) * longest
