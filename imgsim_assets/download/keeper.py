"""Keeping what was fetched: the header is looked at and the bytes become a blob."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from imgsim_assets.images.header import Header, read_header
from imgsim_assets.storage.blobs import Blobs

# Images that one thread takes at once: handing each over by itself costs more than the work.
_BATCH = 16
# Two, so that one stores while the other waits for the disk.
_LOCAL_THREADS = 2
# Writes to object storage wait for answers, so many of them have to wait at the same time.
_REMOTE_THREADS = 32


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored image: the sha256 of its bytes, and what its header says."""

    sha256: str
    header: Header


_Waiting = tuple[bytes, "asyncio.Future[Kept]"]


class Keeper:
    """Stores images off the event loop, whatever has arrived meanwhile at once.

    Use it within one event loop, and close it afterwards.
    """

    def __init__(self, blobs: Blobs, max_pixels: int, *, is_remote: bool) -> None:
        self._blobs = blobs
        self._max_pixels = max_pixels
        self._threads = _REMOTE_THREADS if is_remote else _LOCAL_THREADS
        self._batch = 1 if is_remote else _BATCH
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="keeper")
        self._waiting: deque[_Waiting] = deque()
        self._busy = 0
        self._tasks: set[asyncio.Task[None]] = set()  # so that none is collected while it works

    def close(self) -> None:
        """Wait for what is being stored."""
        self._pool.shutdown()

    async def keep(self, data: bytes) -> Kept:
        """Store an image; raises ImageError for what is none, OSError when it cannot be stored."""
        kept: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        self._waiting.append((data, kept))
        if self._busy < self._threads:
            self._busy += 1
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await kept

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            count = min(self._batch, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            results = await loop.run_in_executor(
                self._pool, self._keep_all, [data for data, _ in batch]
            )
            for (_, kept), result in zip(batch, results, strict=True):
                if kept.done():  # whoever asked was cancelled
                    continue
                if isinstance(result, Exception):
                    kept.set_exception(result)
                else:
                    kept.set_result(result)
        self._busy -= 1

    def _keep_all(self, batch: list[bytes]) -> list[Kept | Exception]:
        results: list[Kept | Exception] = []
        for data in batch:
            try:
                header = read_header(data, self._max_pixels)
                results.append(Kept(self._blobs.put(data), header))
            except Exception as error:  # of the image or of the store: for the one who asked
                results.append(error)
        return results
