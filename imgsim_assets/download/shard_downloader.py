"""Fetches the images of a shard concurrently, with retries and limits for each host."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from array import array
from collections.abc import Callable, Iterable, Sequence, Set
from datetime import datetime
from typing import NamedTuple

from imgsim_assets.download.fetched import Fetched
from imgsim_assets.download.files.image_folder import is_web
from imgsim_assets.download.http.urls import host_of
from imgsim_assets.download.image_fetcher import ImageFetcher
from imgsim_assets.download.image_writer import ImageWriter, StoredImage
from imgsim_assets.download.ledger.fetch_plan import DueImage, DueImages
from imgsim_assets.download.ledger.rows import (
    failed_row,
    failure_status,
    fetched_row,
    unchanged_row,
)
from imgsim_assets.download.ledger.table import Row, utc_now
from imgsim_assets.download.scheduling.circuit_breaker import BreakerState, CircuitBreaker
from imgsim_assets.download.scheduling.host_queues import HostQueues
from imgsim_assets.download.scheduling.host_shares import HostShares
from imgsim_assets.download.scheduling.hosts import Hosts
from imgsim_assets.download.scheduling.page_streaks import MIN_STREAK
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import (
    HOST_FAILURES,
    NOT_IMAGE,
    SKIPPED_HOST,
    FetchError,
    is_retryable,
)
from imgsim_assets.images.errors import ImageError
from imgsim_assets.progress import Log
from imgsim_assets.storage.blobs import Blobs
from imgsim_assets.storage.references import Reference
from imgsim_assets.text import counted

MAX_BACKOFF_SECONDS = 30.0
_FIRST_BACKOFF_SECONDS = 0.5
# Local files that a thread reads together, and how many threads do.
_BATCH = 256
_BATCHES = 4
# A host with few URLs that sends no image is tried by this many runs.
_MAX_PAGE_RUNS = 5
# How often the number of workers is adapted to the number of idle requests.
_ADAPT_SECONDS = 0.25


class _FetchedImage(NamedTuple):
    """An image whose bytes have arrived, and the host that sent them."""

    due: DueImage
    host: str
    fetched: Fetched


class ShardDownloader:
    """One pass over the due images of a shard.

    `on_rows` takes the ledger rows of finished images. `hosts` are shared by all shards of a run,
    and `shares` are the run's shares of their limits.
    """

    def __init__(
        self,
        images: DueImages,
        settings: DownloadSettings,
        *,
        fetcher: ImageFetcher,
        blobs: Blobs,
        hosts: Hosts,
        shares: HostShares,
        on_rows: Callable[[Sequence[Row]], None],
        log: Log,
    ) -> None:
        rate = settings.max_requests_per_second_per_host
        self._settings = settings
        self._fetcher = fetcher
        self._writer: ImageWriter[_FetchedImage] = ImageWriter(
            blobs, settings.max_pixels, self._finish_stored
        )
        self._hosts = hosts
        self._on_rows = on_rows
        self._log = log
        self._images = images
        self._target_workers = self._workers = 0
        self._is_done = asyncio.Event()
        self._attempts: dict[int, int] = {}
        self._errors: dict[int, FetchError] = {}
        # Files of a batch that took too long.
        self._read_alone: set[int] = set()
        # Those whose answer was no image, by host, until it is known whether that will pass.
        self._undecided: dict[str, list[tuple[DueImage, FetchError]]] = {}
        # Images wait as their numbers in the list, each with the number of its host.
        host_numbers: dict[str, int] = {}
        self._host_numbers = array(
            "I", (host_numbers.setdefault(host_of(url), len(host_numbers)) for url in images.urls())
        )
        self._host_names = list(host_numbers)
        self._queues = HostQueues(
            range(len(images)),
            self._host,
            settings.max_per_host,
            interval=1 / rate if rate else 0.0,
            slots=shares.slots,
        )
        if fetcher.reads_batches:
            self._queues.set_concurrency("", _BATCHES * _BATCH)

    @property
    def host_names(self) -> Sequence[str]:
        """The hosts of the images (`host:port`)."""
        return self._host_names

    def refresh(self) -> None:
        """Start what the shares allow now."""
        self._queues.refresh()

    async def run(self) -> None:
        """Fetch all images; the failure of one is a row."""
        try:
            with contextlib.closing(self._fetcher):
                async with self._writer, asyncio.TaskGroup() as workers:
                    while not self._is_done.is_set():
                        self._spawn_workers(workers)
                        await wait_for_event(self._is_done, _ADAPT_SECONDS)
        finally:
            self._decide_remaining_pages()

    def discard(self, images: Set[tuple[str, str]]) -> int:
        """Drop waiting images (id, url) that another run has requested; returns how many."""
        return self._queues.discard(lambda number: self._images[number].key in images)

    def _spawn_workers(self, workers: asyncio.TaskGroup) -> None:
        """Keep `concurrency` workers beside those of idle requests, at most as many again.

        Servers that accept connections and send nothing then do not slow down the others.
        """
        concurrency = self._settings.concurrency
        self._target_workers = concurrency + min(self._fetcher.idle_count(), concurrency)
        for _ in range(self._workers, min(self._target_workers, max(len(self._images), 1))):
            self._workers += 1
            workers.create_task(self._work())

    def _host(self, number: int) -> str:
        return self._host_names[self._host_numbers[number]]

    async def _work(self) -> None:
        while self._workers <= self._target_workers:
            number = await self._queues.take()
            if number is None:
                self._is_done.set()
                break
            if self._fetcher.reads_batches and self._is_batched(number):
                await self._process_files([number, *self._queues.take_more("", _BATCH - 1)])
            else:
                await self._process_image(number)
        self._workers -= 1

    def _is_batched(self, number: int) -> bool:
        """Whether an image is a file that is read together with others."""
        return not self._host(number) and number not in self._read_alone

    async def _process_files(self, numbers: Sequence[int]) -> None:
        """Read files; each ends stored, requeued or failed."""
        images = self._images.take(numbers)
        position = 0
        while position < len(images):
            started = time.monotonic()
            try:
                results = await self._fetcher.read_files([due.url for due in images[position:]])
            except TimeoutError:
                # It is not known which file does not answer: each is read alone.
                self._read_alone.update(numbers[position:])
                for number in numbers[position:]:
                    self._queues.requeue(number, 0.0)
                return
            seconds = (time.monotonic() - started) / len(results)
            end = position + len(results)
            for number, due, result in zip(
                numbers[position:end], images[position:end], results, strict=True
            ):
                self._hosts.count_request("", seconds)
                if isinstance(result, FetchError):
                    if result.status == "internal_error":
                        self._log(f"{due}: {result.detail}")
                    self._retry_or_fail(number, due, "", result)
                else:
                    self._queues.done(number)
                    await self._store(due, "", result)
            position = end

    async def _process_image(self, number: int) -> None:
        """Fetch an image; it ends stored, requeued or failed."""
        due = self._images[number]
        host = self._host(number)
        breaker = self._hosts.breaker(host)
        if breaker.state is BreakerState.SKIPPED:
            self._fail_skipped(host, [number, *self._queues.drop_host(host)], breaker)
            self._queues.done(number)
            return
        is_probe = breaker.start_request()
        started = time.monotonic()
        fetched: Fetched | None = None
        try:
            fetched = await self._fetcher.fetch(due)
        except FetchError as error:
            failure = error
        except Exception as error:
            # A defect that one image reveals, here or in a library, must not stop the others.
            failure = FetchError("internal_error", f"{type(error).__name__}: {error}")
            self._log(f"{due}: {failure.detail}")
        self._hosts.count_request(host, time.monotonic() - started)
        if fetched is None:
            self._record_failure(host, breaker, failure, is_probe=is_probe)
            self._retry_or_fail(number, due, host, failure)
            return
        if breaker.record_success():
            self._log(f"{host or 'the local files'} responds again")
            self._queues.set_concurrency(host, None)
        self._queues.done(number)
        if fetched.data is None:
            self._finish([(host, unchanged_row(due, utc_now()))])
        else:
            await self._store(due, host, fetched)

    async def _store(self, due: DueImage, host: str, fetched: Fetched) -> None:
        data = fetched.data or b""
        reference = None
        if fetched.location is not None:
            reference = Reference(fetched.location, len(data), fetched.etag or "")
        await self._writer.put(_FetchedImage(due, host, fetched), data, reference)

    def _finish_stored(
        self, results: Sequence[tuple[_FetchedImage, StoredImage | ImageError]]
    ) -> None:
        now = utc_now()
        rows: list[tuple[str, Row]] = []
        for (due, host, fetched), image in results:
            if not isinstance(image, ImageError):
                if host in self._undecided:
                    rows += self._decide_pages(host, now, is_temporary=False)
                self._hosts.page_streaks.record_image(host)
                rows.append((host, fetched_row(due, fetched, image, now)))
                continue
            error = FetchError(image.status, image.detail, etag=fetched.etag)
            if image.status == NOT_IMAGE and is_web(due.url):
                rows += self._finish_page(host, due, error, now)
            else:
                rows.append((host, failed_row(due, error, now)))
        self._finish(rows)

    def _finish_page(
        self, host: str, due: DueImage, error: FetchError, now: datetime
    ) -> list[tuple[str, Row]]:
        """The rows that are decided by an answer that is no image.

        A host that answers so for all its images is tried again later, like one that is down. The
        first answers wait until it is known which it is.
        """
        self._undecided.setdefault(host, []).append((due, error))
        streak = self._hosts.page_streaks.record_page(host)
        if streak < MIN_STREAK:
            return []
        if streak == MIN_STREAK:
            self._log(
                f"{host}: {streak} answers in a row are no image, the last: {error.detail}; its "
                "images are tried again later"
            )
        return self._decide_pages(host, now, is_temporary=True)

    def _decide_pages(
        self, host: str, now: datetime, *, is_temporary: bool
    ) -> list[tuple[str, Row]]:
        return [
            (host, failed_row(due, error, now, is_temporary=is_temporary))
            for due, error in self._undecided.pop(host, ())
        ]

    def _decide_remaining_pages(self) -> None:
        """Decide about hosts with few URLs: several runs try one that has sent no image."""
        now = utc_now()
        for host in list(self._undecided):
            has_sent_images = self._hosts.page_streaks.has_sent_images(host)
            self._finish(
                [
                    (
                        host,
                        failed_row(
                            due,
                            error,
                            now,
                            is_temporary=not has_sent_images and due.attempts < _MAX_PAGE_RUNS - 1,
                        ),
                    )
                    for due, error in self._undecided.pop(host)
                ]
            )

    def _finish(self, rows: Sequence[tuple[str, Row]]) -> None:
        for host, row in rows:
            self._hosts.count_image(host, failure_status(row))
        self._on_rows([row for _, row in rows])

    # ---- failures -------------------------------------------------------------------

    def _retry_or_fail(self, number: int, due: DueImage, host: str, error: FetchError) -> None:
        """Requeue the image in this run, or leave it to a later one."""
        attempts = self._attempts.get(number, 0) + 1
        wait = backoff(attempts - 1, error.retry_after)
        may_retry = (
            is_retryable(error.status)
            and attempts <= self._settings.retries
            and wait <= MAX_BACKOFF_SECONDS
            and not self._hosts.breaker(host).is_skipped
        )
        if may_retry:
            self._attempts[number] = attempts
            self._errors[number] = error
            self._queues.requeue(number, wait)
            return
        self._attempts.pop(number, None)
        self._errors.pop(number, None)
        self._finish([(host, failed_row(due, error, utc_now()))])
        self._queues.done(number)

    def _record_failure(
        self, host: str, breaker: CircuitBreaker, error: FetchError, *, is_probe: bool
    ) -> None:
        """Pause or skip a host that fails, by its circuit breaker."""
        if error.status not in HOST_FAILURES or not host:
            if breaker.record_success():  # the host answered, if only with an error
                self._queues.set_concurrency(host, None)
            return
        if error.status == "rate_limited":
            self._slow_down(host, breaker, error)
        if not breaker.record_failure(str(error)[:200], is_probe=is_probe):
            return
        if breaker.state is BreakerState.OPEN:
            pause = self._settings.circuit_breaker_cooldown_s
            self._log(
                f"{host}: {counted(breaker.failures, 'failure')} in a row, the last: "
                f"{breaker.reason}; "
                f"the next request is sent after {pause:g} s"
            )
            self._queues.set_concurrency(host, 1)
            self._queues.pause(host, pause)
        else:
            self._skip_host(host, breaker)

    def _slow_down(self, host: str, breaker: CircuitBreaker, error: FetchError) -> None:
        """Pause a host that limits the rate; skip it when it asks for a long pause."""
        wait = backoff(0, error.retry_after)
        if wait <= MAX_BACKOFF_SECONDS:
            self._queues.pause(host, wait)
        elif not breaker.is_skipped:
            breaker.skip(f"the host asked to wait for {wait:.0f} s", wait)
            self._skip_host(host, breaker)

    def _skip_host(self, host: str, breaker: CircuitBreaker) -> None:
        numbers = self._queues.drop_host(host)
        images = counted(len(numbers), "image")
        self._log(f"{host} is skipped in this run, with {images}: {breaker.reason}")
        self._fail_skipped(host, numbers, breaker)

    def _fail_skipped(self, host: str, numbers: Iterable[int], breaker: CircuitBreaker) -> None:
        """Fail the images of a skipped host, by their own last error where they have one."""
        now = utc_now()
        for number in numbers:
            skipped = FetchError(
                SKIPPED_HOST, f"not requested: {breaker.reason}", breaker.retry_after
            )
            self._attempts.pop(number, None)
            error = self._errors.pop(number, skipped)
            self._finish([(host, failed_row(self._images[number], error, now))])


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, at most `seconds`.

    `asyncio.wait_for` of Python 3.11 can swallow a cancellation that arrives with the event.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def backoff(attempt: int, retry_after: float | None) -> float:
    """Seconds before the next attempt: Retry-After, else exponential with jitter."""
    if retry_after is not None:
        return retry_after
    longest = min(_FIRST_BACKOFF_SECONDS * 2.0**attempt, MAX_BACKOFF_SECONDS)
    return random.uniform(0.5, 1.0) * longest
