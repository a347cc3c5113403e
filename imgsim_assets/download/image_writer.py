"""Keeping what was fetched: the header is looked at and the bytes become a blob."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

from imgsim_assets.images.header import Header, ImageError, plain_jpeg_header, read_header
from imgsim_assets.storage.blobs import Blobs

K = TypeVar("K")
# Images that are looked at, and handed to the thread, at once: work that is done again and again
# takes a third of the time that it takes between requests, and a thread that gets the
# interpreter from an event loop that never rests costs more than what it does with a few images.
_BATCH = 512
_BATCH_BYTES = 8 * 2**20
# How long an image waits for others at most.
_LONGEST_PAUSE_SECONDS = 0.1
# Larger images are hashed by the thread, which keeps nobody from the interpreter meanwhile.
_HASHED_AT_ONCE_BYTES = 64 * 1024
# With so many bytes waiting to be stored, whoever brings one more image waits as well.
_MOST_WAITING_BYTES = 64 * 2**20


class Kept(NamedTuple):
    """A stored image: the sha256 of its bytes, and what its header says."""

    sha256: str
    header: Header


Results = Sequence[tuple[K, Kept | ImageError]]


class _Image(NamedTuple, Generic[K]):
    """An image under its key, with its sha256 and header where these are known already."""

    key: K
    data: bytes
    digest: bytes | None
    header: Header | None


class ImageWriter(Generic[K]):
    """Stores images off the event loop, in order, whatever has arrived meanwhile at once.

    `deliver` takes, on the loop, what came of some of them: each one's key, and what is kept, or
    why it is no image. Use it as an async context manager; it ends when all are delivered, by
    whatever it ends, or with the store's error as soon as one cannot be stored.
    """

    def __init__(
        self,
        blobs: Blobs,
        max_pixels: int,
        deliver: Callable[[Results[K]], None],
    ) -> None:
        self._blobs = blobs
        self._max_pixels = max_pixels
        self._deliver = deliver
        self._arrived: list[tuple[K, bytes]] = []
        self._arrived_bytes = 0
        self._waiting: deque[list[_Image[K]]] = deque()
        self._waiting_bytes = 0
        self._has_room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_storing = False
        self._has_failed = False
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        # One thread: while it waits for the disk, what arrives may wait as well.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keeper")
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._pass_on()
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            self._stop_timer()
            self._thread.shutdown()
            # After an error elsewhere, or an interruption: what has arrived is kept.
            for batch in [] if self._has_failed else self._waiting:
                self._conclude(*self._kept(batch))

    async def put(self, key: K, data: bytes) -> None:
        """Take an image in, as soon as not too much waits to be stored."""
        while self._waiting_bytes >= _MOST_WAITING_BYTES:
            self._has_room.clear()
            await self._has_room.wait()
        self._arrived.append((key, data))
        self._arrived_bytes += len(data)
        if len(self._arrived) >= _BATCH or self._arrived_bytes >= _BATCH_BYTES:
            self._pass_on()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_LONGEST_PAUSE_SECONDS, self._pass_on)

    def _pass_on(self) -> None:
        """Let the thread store what has arrived."""
        self._stop_timer()
        if self._arrived:
            self._waiting.append([self._looked_at(key, data) for key, data in self._arrived])
            self._waiting_bytes += self._arrived_bytes
            self._arrived, self._arrived_bytes = [], 0
            if not self._is_storing:
                self._is_storing = True
                self._tasks.create_task(self._store())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _looked_at(self, key: K, data: bytes) -> _Image[K]:
        if len(data) > _HASHED_AT_ONCE_BYTES:
            return _Image(key, data, None, None)
        digest = hashlib.sha256(data).digest()
        return _Image(key, data, digest, plain_jpeg_header(data, self._max_pixels))

    async def _store(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._waiting[0]
            results, error = await loop.run_in_executor(self._thread, self._kept, batch)
            self._waiting.popleft()
            self._waiting_bytes -= sum(len(image.data) for image in batch)
            self._has_room.set()
            self._conclude(results, error)
        self._is_storing = False

    def _conclude(self, results: Results[K], error: Exception | None) -> None:
        self._deliver(results)
        if error is not None:
            self._has_failed = True
            raise error

    def _kept(self, batch: Sequence[_Image[K]]) -> tuple[Results[K], Exception | None]:
        """What comes of some images; up to the first, if any, that cannot be stored."""
        try:
            return self._all_kept(batch), None
        except Exception:
            kept: list[tuple[K, Kept | ImageError]] = []
            for image in batch:
                try:
                    kept += self._all_kept([image])
                except Exception as error:
                    return kept, error
            return kept, None

    def _all_kept(self, batch: Sequence[_Image[K]]) -> Results[K]:
        headers = [image.header or self._header(image.data) for image in batch]
        good = [
            (image.digest or hashlib.sha256(image.data).digest(), image.data)
            for image, header in zip(batch, headers, strict=True)
            if isinstance(header, Header)
        ]
        names = iter(self._blobs.put_hashed(good))
        return [
            (image.key, Kept(next(names), header) if isinstance(header, Header) else header)
            for image, header in zip(batch, headers, strict=True)
        ]

    def _header(self, data: bytes) -> Header | ImageError:
        try:
            return read_header(data, self._max_pixels)
        except ImageError as error:
            return error
