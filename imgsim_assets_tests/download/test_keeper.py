from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from imgsim_assets.download.keeper import Keeper, Kept
from imgsim_assets.images.header import Header, ImageError
from imgsim_assets.storage.blobs import Blobs
from imgsim_assets.storage.files import GrowingFile, LocalFiles
from imgsim_assets_tests.support.pictures import jpeg


class FullDisk(LocalFiles):
    def grow(self, path: str) -> GrowingFile:
        raise OSError(28, "No space left on device")


def kept(blobs: Blobs, bodies: list[bytes]) -> list[object]:
    """What comes of bodies that arrive at once, each a Kept or an exception."""

    async def all_of_them() -> list[object]:
        keeper = Keeper(blobs, 100_000)
        try:
            tasks = [keeper.keep(body) for body in bodies]
            return list(await asyncio.gather(*tasks, return_exceptions=True))
        finally:
            keeper.close()

    return asyncio.run(asyncio.wait_for(all_of_them(), 30))


def test_each_body_gets_its_own_answer(tmp_path: Path) -> None:
    blobs = Blobs(LocalFiles(tmp_path))
    bodies = [jpeg(number, (40 + number, 30)) if number % 7 else b"<html>" for number in range(100)]
    for number, (body, answer) in enumerate(zip(bodies, kept(blobs, bodies), strict=True)):
        if number % 7:
            sha256 = hashlib.sha256(body).hexdigest()
            assert answer == Kept(sha256, Header("JPEG", 40 + number, 30))
            assert blobs.get(sha256) == body
        else:
            assert isinstance(answer, ImageError)
            assert answer.status == "not_image"


def test_large_and_small_images_have_the_sha256_of_their_bytes(tmp_path: Path) -> None:
    bodies = [jpeg(1) + bytes(size) for size in (0, 65_000, 70_000, 1_000_000)]
    answers = kept(Blobs(LocalFiles(tmp_path)), bodies)
    assert [answer.sha256 for answer in answers if isinstance(answer, Kept)] == [
        hashlib.sha256(body).hexdigest() for body in bodies
    ]


def test_a_keeper_goes_on_after_it_had_nothing_to_do(tmp_path: Path) -> None:
    async def one_after_the_other() -> int:
        keeper = Keeper(Blobs(LocalFiles(tmp_path)), 100_000)
        answers = [await keeper.keep(jpeg(number)) for number in range(50)]
        keeper.close()
        return len(answers)

    assert asyncio.run(asyncio.wait_for(one_after_the_other(), 30)) == 50


def test_a_full_disk_is_told_to_whoever_asked(tmp_path: Path) -> None:
    (answer,) = kept(Blobs(FullDisk(tmp_path)), [jpeg(1)])
    assert isinstance(answer, OSError)
