from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from imgsim_assets.download import image_writer as module
from imgsim_assets.download.image_writer import ImageWriter, StoredImage
from imgsim_assets.images.errors import ImageError
from imgsim_assets.images.header import Header
from imgsim_assets.storage.blobs import Blobs
from imgsim_assets.storage.files import StagedFile
from imgsim_assets.storage.local_files import LocalFiles
from imgsim_assets_tests.support.images import jpeg

Results = Sequence[tuple[int, StoredImage | ImageError]]


class FullDisk(LocalFiles):
    def create_staged(self, path: str) -> StagedFile:
        raise OSError(28, "No space left on device")


class SlowBlobs(Blobs):
    """Blocks every write until `may_store` is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(LocalFiles(folder))
        self.may_store = threading.Event()

    def put_hashed(self, images: Sequence[tuple[bytes, bytes]]) -> list[str]:
        assert self.may_store.wait(60)
        return super().put_hashed(images)


def store_all(
    blobs: Blobs, bodies: Sequence[bytes], *, pause: float = 0.0
) -> list[StoredImage | ImageError]:
    """Write bodies with a pause between them; returns the results in order."""
    results_by_key: dict[int, StoredImage | ImageError] = {}

    async def all_of_them() -> None:
        async with ImageWriter[int](blobs, 100_000, results_by_key.update) as writer:
            for number, body in enumerate(bodies):
                await writer.put(number, body)
                await asyncio.sleep(pause)

    asyncio.run(asyncio.wait_for(all_of_them(), 30))
    return [results_by_key[number] for number in range(len(bodies))]


def test_put_delivers_the_result_of_each_image(tmp_path: Path) -> None:
    blobs = Blobs(LocalFiles(tmp_path))
    sizes = [(40 + number % 200, 30) for number in range(module._BATCH + 100)]
    bodies = [
        jpeg(number, size) if number % 7 else b"<html>%d" % number
        for number, size in enumerate(sizes)
    ]
    for number, (body, result) in enumerate(zip(bodies, store_all(blobs, bodies), strict=True)):
        if number % 7:
            sha256 = hashlib.sha256(body).hexdigest()
            assert result == StoredImage(sha256, Header("JPEG", *sizes[number]))
            assert blobs.get(sha256) == body
        else:
            assert isinstance(result, ImageError)
            assert result.status == "not_image"


def test_sha256_of_small_and_large_images(tmp_path: Path) -> None:
    bodies = [jpeg(1) + bytes(size) for size in (0, 65_000, 70_000, 1_000_000)]
    results_by_key = store_all(Blobs(LocalFiles(tmp_path)), bodies)
    assert [result.sha256 for result in results_by_key if isinstance(result, StoredImage)] == [
        hashlib.sha256(body).hexdigest() for body in bodies
    ]


def test_single_image_is_flushed_without_waiting_for_a_full_batch(tmp_path: Path) -> None:
    async def put_one_by_one() -> None:
        delivered = asyncio.Event()
        async with ImageWriter[int](
            Blobs(LocalFiles(tmp_path)), 100_000, lambda _: delivered.set()
        ) as writer:
            for number in range(3):
                await writer.put(number, jpeg(number))
                await delivered.wait()
                delivered.clear()

    asyncio.run(asyncio.wait_for(put_one_by_one(), 30))


def test_put_applies_backpressure_when_queue_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 4)
    monkeypatch.setattr(module, "_MAX_QUEUED_BYTES", 10 * len(jpeg(0)))
    blobs = SlowBlobs(tmp_path)
    results_by_key: dict[int, StoredImage | ImageError] = {}
    put_count = 0

    async def put_many() -> None:
        nonlocal put_count
        async with ImageWriter[int](blobs, 100_000, results_by_key.update) as writer:
            asyncio.get_running_loop().call_later(0.5, release)
            for number in range(100):
                await writer.put(number, jpeg(number))
                put_count += 1

    def release() -> None:
        assert put_count < 20, "the writer accepted more than its limit"
        blobs.may_store.set()

    asyncio.run(asyncio.wait_for(put_many(), 30))
    assert len(results_by_key) == 100
    assert put_count == 100


def test_full_disk_ends_the_writer_and_its_caller(tmp_path: Path) -> None:
    async def put_and_sleep() -> None:
        async with ImageWriter[int](Blobs(FullDisk(tmp_path)), 100_000, lambda _: None) as writer:
            await writer.put(1, jpeg(1))
            await asyncio.sleep(60)

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(asyncio.wait_for(put_and_sleep(), 30))
    assert raised.group_contains(OSError, match="No space left")


def test_cancelled_writer_stores_images_that_arrived(tmp_path: Path) -> None:
    delivered: list[Results] = []

    async def put_and_cancel() -> None:
        async with ImageWriter[int](
            Blobs(LocalFiles(tmp_path)), 100_000, delivered.append
        ) as writer:
            await writer.put(1, jpeg(1))
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(put_and_cancel())
    assert [key for results in delivered for key, _ in results] == [1]
    assert not [one for one in threading.enumerate() if one.name.startswith("image-writer")]
