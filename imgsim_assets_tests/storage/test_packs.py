from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.files import Entry, Files
from imgsim_assets.storage.local_files import LocalFiles
from imgsim_assets.storage.packs import (
    PACKS,
    PackWriter,
    list_packs,
    pack_size,
    read_pack_entries,
    verify_pack,
)
from imgsim_assets.storage.store import open_files


def write_pack(files: Files, images: list[bytes]) -> Entry:
    writer = PackWriter(files)
    writer.add([hashlib.sha256(image).digest() for image in images], images)
    writer.finish()
    [pack] = [entry for entry in list_packs(files) if entry.name == writer.name]
    return pack


@settings(max_examples=50, deadline=None)
@given(images=st.lists(st.binary(max_size=60), max_size=12, unique=True))
def test_the_index_of_a_pack_locates_each_image(images: list[bytes]) -> None:
    files = open_files("memory://packs-of-a-property-test")
    pack = write_pack(files, images)

    entries = read_pack_entries(files, pack)

    images_by_digest = {}
    for row in range(len(entries)):
        start, length = int(entries.start[row]), int(entries.length[row])
        digest = entries.sha256[row : row + 1].tobytes()
        images_by_digest[digest] = files.read_range(f"{PACKS}/{pack.name}", start, length)
    assert images_by_digest == {hashlib.sha256(image).digest(): image for image in images}
    assert np.array_equal(entries.sha256, np.sort(entries.sha256))
    assert pack.size == pack_size(entries.length)
    assert verify_pack(files, pack) == (len(images), [])


def test_an_index_longer_than_the_first_read_is_read_whole(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    images = [b"%d" % number for number in range(3000)]
    pack = write_pack(files, images)

    assert len(read_pack_entries(files, pack)) == 3000


@pytest.mark.parametrize("damage", ["empty", "cut", "no end", "count"])
def test_reading_a_file_that_is_not_a_pack_raises(tmp_path: Path, damage: str) -> None:
    files = LocalFiles(tmp_path)
    pack = write_pack(files, [b"image"])
    path = tmp_path / PACKS / pack.name
    data = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut": data[:-1],
        "no end": data[:-1] + b"?",
        "count": data[:-9] + b"\x7f" + data[-8:],
    }[damage]
    path.write_bytes(damaged)
    [pack] = list_packs(files)

    with pytest.raises(CorruptFileError, match=pack.name):
        read_pack_entries(files, pack)


def test_verify_pack_reports_damaged_images(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    pack = write_pack(files, [b"first", b"second"])
    path = tmp_path / PACKS / pack.name
    path.write_bytes(path.read_bytes().replace(b"second", b"sekond"))

    assert verify_pack(files, pack) == (2, [hashlib.sha256(b"second").hexdigest()])


def test_verify_pack_of_a_deleted_pack_reports_nothing(tmp_path: Path) -> None:
    gone = Entry("0" * 32, 100, 0.0, is_folder=False)

    assert verify_pack(LocalFiles(tmp_path), gone) == (0, [])


def test_a_writer_reads_its_pack_before_it_is_published(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    writer = PackWriter(files)
    writer.add([b"d" * 32], [b"image"])

    assert b"d" * 32 in writer
    assert writer.read(b"d" * 32) == b"image"
    assert list_packs(files) == []
    writer.close()
    assert list((tmp_path / PACKS).iterdir()) == []
