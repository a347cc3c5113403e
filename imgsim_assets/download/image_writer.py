"""Stores fetched images: reads their headers and writes their bytes as blobs."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, Self, TypeVar

from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.header import Header, plain_jpeg_header, read_header
from imgsim_assets.storage.blobs import Blobs
from imgsim_assets.storage.references import Reference

K = TypeVar("K")
# Images that are hashed and handed to the thread together. One pass over many images takes a
# third of the time of passes between requests, and a thread that gets the interpreter from a
# busy event loop costs more than its work on a few images.
_BATCH = 512
_BATCH_BYTES = 8 * 2**20
# How long an image waits at most for a full batch.
_MAX_DELAY_SECONDS = 0.1
# Larger images are hashed by the thread: hashlib releases the interpreter for them.
_MAX_INLINE_HASH_BYTES = 64 * 1024
# `put` applies backpressure while more bytes than this wait to be stored.
_MAX_QUEUED_BYTES = 64 * 2**20


class StoredImage(NamedTuple):
    """A stored image: the sha256 of its bytes, and what its header says."""

    sha256: str
    header: Header


Results = Sequence[tuple[K, StoredImage | ImageError]]


class _Image(NamedTuple, Generic[K]):
    """An image under its key; sha256 and header where the event loop has computed them.

    With a `reference` the store does not copy its bytes.
    """

    key: K
    data: bytes
    reference: Reference | None
    digest: bytes | None
    header: Header | None


class ImageWriter(Generic[K]):
    """Stores images off the event loop, in order and in batches.

    `deliver` takes, on the event loop, the key of each image with the stored image or the reason
    why the bytes are no usable image. Use it as an async context manager. It ends when all results
    are delivered, also after an error or a cancellation, or with the store's error as soon as an
    image cannot be stored.
    """

    def __init__(
        self, blobs: Blobs, max_pixels: int, deliver: Callable[[Results[K]], None]
    ) -> None:
        self._blobs = blobs
        self._max_pixels = max_pixels
        self._deliver = deliver
        self._arrived: list[tuple[K, bytes, Reference | None]] = []
        self._arrived_bytes = 0
        self._queue: deque[list[_Image[K]]] = deque()
        self._queued_bytes = 0
        self._has_room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_storing = False
        self._has_failed = False
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        # One thread: while it waits for the disk, more images form larger batches.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="image-writer")
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        try:
            self._flush()
            await self._tasks.__aexit__(*error)
        finally:
            self._stop_timer()
            self._thread.shutdown()
            # After another task's error, or a cancellation: images that arrived are stored.
            for batch in [] if self._has_failed else self._queue:
                self._deliver_or_raise(*self._store_batch(batch))

    async def put(self, key: K, data: bytes, reference: Reference | None = None) -> None:
        """Add an image, as soon as the queue has room; with a reference it stays where it lies."""
        while self._queued_bytes >= _MAX_QUEUED_BYTES:
            self._has_room.clear()
            await self._has_room.wait()
        self._arrived.append((key, data, reference))
        self._arrived_bytes += len(data)
        if len(self._arrived) >= _BATCH or self._arrived_bytes >= _BATCH_BYTES:
            self._flush()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_MAX_DELAY_SECONDS, self._flush)

    def _flush(self) -> None:
        """Queue the images that have arrived as one batch."""
        self._stop_timer()
        if self._arrived:
            self._queue.append([self._inspect(*arrived) for arrived in self._arrived])
            self._queued_bytes += self._arrived_bytes
            self._arrived, self._arrived_bytes = [], 0
            if not self._is_storing:
                self._is_storing = True
                self._tasks.create_task(self._store_queue())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _inspect(self, key: K, data: bytes, reference: Reference | None) -> _Image[K]:
        if len(data) > _MAX_INLINE_HASH_BYTES:
            return _Image(key, data, reference, None, None)
        digest = hashlib.sha256(data).digest()
        return _Image(key, data, reference, digest, plain_jpeg_header(data, self._max_pixels))

    async def _store_queue(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            batch = self._queue[0]
            results, error = await loop.run_in_executor(self._thread, self._store_batch, batch)
            self._queue.popleft()
            self._queued_bytes -= sum(len(image.data) for image in batch)
            self._has_room.set()
            self._deliver_or_raise(results, error)
        self._is_storing = False

    def _deliver_or_raise(self, results: Results[K], error: Exception | None) -> None:
        self._deliver(results)
        if error is not None:
            self._has_failed = True
            raise error

    def _store_batch(self, batch: Sequence[_Image[K]]) -> tuple[Results[K], Exception | None]:
        """The results of a batch, up to the first image that the store refuses, with its error."""
        try:
            return self._store(batch), None
        except Exception:
            results: list[tuple[K, StoredImage | ImageError]] = []
            for image in batch:
                try:
                    results += self._store([image])
                except Exception as error:
                    return results, error
            return results, None

    def _store(self, batch: Sequence[_Image[K]]) -> Results[K]:
        headers = [image.header or self._header(image.data) for image in batch]
        digests = [image.digest or hashlib.sha256(image.data).digest() for image in batch]
        good = [
            (digest, image)
            for digest, image, header in zip(digests, batch, headers, strict=True)
            if isinstance(header, Header)
        ]
        copies = [(digest, image.data) for digest, image in good if image.reference is None]
        references = [(digest, image.reference) for digest, image in good if image.reference]
        if copies:
            self._blobs.put_hashed(copies)
        if references:
            self._blobs.put_references(references)
        return [
            (image.key, StoredImage(digest.hex(), found) if isinstance(found, Header) else found)
            for digest, image, found in zip(digests, batch, headers, strict=True)
        ]

    def _header(self, data: bytes) -> Header | ImageError:
        try:
            return read_header(data, self._max_pixels)
        except ImageError as error:
            return error
