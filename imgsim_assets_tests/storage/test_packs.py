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


def packed(files: Files, images: list[bytes]) -> Entry:
    writer = PackWriter(files)
    writer.add([hashlib.sha256(image).digest() for image in images], images)
    writer.finish()
    [pack] = [entry for entry in list_packs(files) if entry.name == writer.name]
    return pack


@settings(max_examples=50, deadline=None)
@given(images=st.lists(st.binary(max_size=60), max_size=12, unique=True))
def test_a_pack_says_where_each_image_lies(images: list[bytes]) -> None:
    files = open_files("memory://packs-of-a-property-test")
    pack = packed(files, images)

    contents = read_pack_entries(files, pack)

    found = {}
    for at in range(len(contents)):
        start, length = int(contents.start[at]), int(contents.length[at])
        digest = contents.sha256[at : at + 1].tobytes()
        found[digest] = files.read_range(f"{PACKS}/{pack.name}", start, length)
    assert found == {hashlib.sha256(image).digest(): image for image in images}
    assert np.array_equal(contents.sha256, np.sort(contents.sha256))
    assert pack.size == pack_size(contents.length)
    assert verify_pack(files, pack) == (len(images), [])


def test_an_index_that_is_longer_than_what_is_read_at_first_is_read_whole(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    images = [b"%d" % number for number in range(3000)]
    pack = packed(files, images)

    assert len(read_pack_entries(files, pack)) == 3000


@pytest.mark.parametrize("damage", ["empty", "cut", "no end", "count"])
def test_what_is_no_pack_is_named(tmp_path: Path, damage: str) -> None:
    files = LocalFiles(tmp_path)
    pack = packed(files, [b"image"])
    path = tmp_path / PACKS / pack.name
    whole = path.read_bytes()
    left = {
        "empty": b"",
        "cut": whole[:-1],
        "no end": whole[:-1] + b"?",
        "count": whole[:-9] + b"\x7f" + whole[-8:],
    }[damage]
    path.write_bytes(left)
    [pack] = list_packs(files)

    with pytest.raises(CorruptFileError, match=pack.name):
        read_pack_entries(files, pack)


def test_a_damaged_image_is_told_apart(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    pack = packed(files, [b"first", b"second"])
    path = tmp_path / PACKS / pack.name
    path.write_bytes(path.read_bytes().replace(b"second", b"sekond"))

    assert verify_pack(files, pack) == (2, [hashlib.sha256(b"second").hexdigest()])


def test_a_pack_that_is_collected_meanwhile_is_no_damage(tmp_path: Path) -> None:
    gone = Entry("0" * 32, 100, 0.0, is_folder=False)

    assert verify_pack(LocalFiles(tmp_path), gone) == (0, [])


def test_a_pack_is_read_by_its_writer_before_it_is_in_place(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    writer = PackWriter(files)
    writer.add([b"d" * 32], [b"image"])

    assert b"d" * 32 in writer
    assert writer.read(b"d" * 32) == b"image"
    assert list_packs(files) == []
    writer.close()
    assert list((tmp_path / PACKS).iterdir()) == []
