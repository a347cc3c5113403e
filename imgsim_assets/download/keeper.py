"""Keeping what was fetched: the header is looked at and the bytes become a blob."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from imgsim_assets.images.header import Header, ImageError, read_header
from imgsim_assets.storage.blobs import Blobs

# Images that one thread takes at once: handing each over by itself costs more than the work.
_BATCH = 64
# Images up to this size are hashed where they arrive. hashlib lets go of the interpreter for each
# image, and to get it back from an event loop that never rests takes a thread longer than the hash.
_HASHED_AT_ONCE_BYTES = 64 * 1024
# Two, so that one works while the other waits for a pack to be put in place.
_THREADS = 2


class Kept(NamedTuple):
    """A stored image: the sha256 of its bytes, and what its header says."""

    sha256: str
    header: Header


# An image, its sha256 where that is known already, and who waits for it to be stored.
_Waiting = tuple[bytes, bytes | None, "asyncio.Future[Kept]"]


class Keeper:
    """Stores images off the event loop, whatever has arrived meanwhile at once.

    Use it within one event loop, and close it afterwards.
    """

    def __init__(self, blobs: Blobs, max_pixels: int) -> None:
        self._blobs = blobs
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="keeper")
        self._waiting: deque[_Waiting] = deque()
        self._busy = 0
        self._tasks: set[asyncio.Task[None]] = set()  # so that none is collected while it works

    def close(self) -> None:
        """Wait for what is being stored."""
        self._pool.shutdown()

    async def keep(self, data: bytes) -> Kept:
        """Store an image; raises ImageError for what is none, OSError when it cannot be stored."""
        kept: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        digest = hashlib.sha256(data).digest() if len(data) <= _HASHED_AT_ONCE_BYTES else None
        self._waiting.append((data, digest, kept))
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
                self._pool, self._keep_all, [(data, digest) for data, digest, _ in batch]
            )
            for (_, _, kept), result in zip(batch, results, strict=True):
                if kept.done():  # whoever asked was cancelled
                    continue
                if isinstance(result, Exception):
                    kept.set_exception(result)
                else:
                    kept.set_result(result)
        self._busy -= 1

    def _keep_all(self, batch: list[tuple[bytes, bytes | None]]) -> list[Kept | Exception]:
        headers = [self._header(data) for data, _ in batch]
        good = [
            (digest or hashlib.sha256(data).digest(), data)
            for (data, digest), header in zip(batch, headers, strict=True)
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
