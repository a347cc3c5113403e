"""Keeping what was fetched: the header is looked at and the bytes become a blob."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from imgsim_assets.images.header import Header, ImageError, plain_jpeg, read_header
from imgsim_assets.storage.blobs import Blobs

# Images that one thread takes at once: handing each over by itself costs more than the work.
_BATCH = 64
# Images up to this size are hashed, and looked at as far as that takes microseconds, where they
# arrive. To get the interpreter from an event loop that never rests, which a thread has to for
# each image, takes longer than the work.
_LOOKED_AT_ONCE_BYTES = 64 * 1024
# Two, so that one works while the other waits for a pack to be put in place.
_THREADS = 2


class Kept(NamedTuple):
    """A stored image: the sha256 of its bytes, and what its header says."""

    sha256: str
    header: Header


class _Arrived(NamedTuple):
    """An image, with its sha256 and header where these are known already."""

    data: bytes
    digest: bytes | None
    header: Header | None


class Keeper:
    """Stores images off the event loop, whatever has arrived meanwhile at once.

    Use it within one event loop, and close it afterwards.
    """

    def __init__(self, blobs: Blobs, max_pixels: int) -> None:
        self._blobs = blobs
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="keeper")
        self._waiting: deque[tuple[_Arrived, asyncio.Future[Kept]]] = deque()
        self._busy = 0
        self._tasks: set[asyncio.Task[None]] = set()  # so that none is collected while it works

    def close(self) -> None:
        """Wait for what is being stored."""
        self._pool.shutdown()

    async def keep(self, data: bytes) -> Kept:
        """Store an image; raises ImageError for what is none, OSError when it cannot be stored."""
        kept: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._arrived(data), kept))
        if self._busy < _THREADS:
            self._busy += 1
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await kept

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            count = min(_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            results = await loop.run_in_executor(
                self._pool, self._keep_all, [arrived for arrived, _ in batch]
            )
            for (_, kept), result in zip(batch, results, strict=True):
                if kept.done():  # whoever asked was cancelled
                    continue
                if isinstance(result, Exception):
                    kept.set_exception(result)
                else:
                    kept.set_result(result)
        self._busy -= 1

    def _arrived(self, data: bytes) -> _Arrived:
        if len(data) > _LOOKED_AT_ONCE_BYTES:
            return _Arrived(data, None, None)
        digest = hashlib.sha256(data).digest()
        return _Arrived(data, digest, plain_jpeg(data, self._max_pixels))

    def _keep_all(self, batch: Sequence[_Arrived]) -> list[Kept | Exception]:
        headers = [arrived.header or self._header(arrived.data) for arrived in batch]
        good = [
            (arrived.digest or hashlib.sha256(arrived.data).digest(), arrived.data)
            for arrived, header in zip(batch, headers, strict=True)
            if isinstance(header, Header)
        ]
        try:
            names = iter(self._blobs.put_hashed(good))
        except Exception as error:  # of the store: for everyone who asked
            return [error] * len(batch)
        return [
            Kept(next(names), header) if isinstance(header, Header) else header
            for header in headers
        ]

    def _header(self, data: bytes) -> Header | ImageError:
        try:
            return read_header(data, self._max_pixels)
        except ImageError as error:
            return error
