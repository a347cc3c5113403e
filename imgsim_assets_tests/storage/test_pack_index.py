from __future__ import annotations

import gc
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.storage import pack_index
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.local_files import LocalFiles
from imgsim_assets.storage.pack_index import INDEXES, PackIndex
from imgsim_assets.storage.packs import PACKS, SHA256, PackWriter, list_packs
from imgsim_assets.storage.store import Store, open_files
from imgsim_assets_tests.support.interrupted import InterruptedFiles


def digest(image: bytes) -> bytes:
    return hashlib.sha256(image).digest()


def pack(files: Files, *images: bytes) -> str:
    writer = PackWriter(files)
    writer.add([digest(image) for image in images], images)
    writer.finish()
    return writer.name


def looked_up(files: Files) -> PackIndex:
    index = PackIndex(files)
    index.refresh()
    return index


def read(files: Files, index: PackIndex, image: bytes) -> list[bytes]:
    return [
        files.read_range(f"{PACKS}/{place.pack}", place.start, place.length)
        for place in index.find(digest(image))
    ]


def held(index: PackIndex, images: list[bytes]) -> list[bool]:
    digests = [digest(image) for image in images]
    found: list[bool] = index.contains(np.array(digests, SHA256)).tolist()
    listed = index.filter_known(digests)  # perhaps by packs that are gone, too
    assert {one for one, is_held in zip(digests, found, strict=True) if is_held} <= set(listed)
    assert len(set(listed)) == len(listed)
    return found


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return LocalFiles(tmp_path)


Step = tuple[str, list[int]]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["pack", "pack", "refresh", "compact", "delete"]),
            st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True),
        ),
        max_size=14,
    )
)
def test_what_is_in_place_is_found_whatever_has_happened(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    files = LocalFiles(tmp_path_factory.mktemp("store"))
    index = PackIndex(files)
    there: dict[str, set[int]] = {}
    for kind, numbers in steps:
        if kind == "pack":
            there[pack(files, *(b"%d" % number for number in numbers))] = set(numbers)
        elif kind == "refresh":
            index.refresh()
        elif kind == "compact":
            index.compact(at_least=1)
        elif there:
            name = sorted(there)[numbers[0] % len(there)]
            del there[name]
            files.delete(f"{PACKS}/{name}")
    index.refresh()
    for view in (index, looked_up(files)):
        expected = [any(number in one for one in there.values()) for number in range(13)]
        assert held(view, [b"%d" % number for number in range(13)]) == expected
        for number in range(13):
            copies = {name for name, numbers in there.items() if number in numbers}
            assert {place.pack for place in view.find(digest(b"%d" % number))} == copies
            assert read(files, view, b"%d" % number) == [b"%d" % number] * len(copies)


def test_many_packs_share_few_index_files(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_index, "_SLICE_IMAGES", 16)
    index = PackIndex(files)
    for number in range(60):
        pack(files, b"%d" % number, b"second of %d" % number)
        index.refresh()
        index.compact(at_least=4)

    assert len(files.entries(INDEXES)) <= 4
    for view in (index, looked_up(files)):
        for number in range(60):
            assert read(files, view, b"second of %d" % number) == [b"second of %d" % number]


def test_index_files_save_the_reading_of_packs(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    index = PackIndex(files)
    names = [pack(files, b"%d" % number) for number in range(5)]
    index.refresh()
    index.compact(at_least=5)
    for name in names:  # what is never opened may as well be unreadable
        (tmp_path / PACKS / name).write_bytes(b"")

    assert all(held(looked_up(files), [b"%d" % number for number in range(5)]))


def test_few_packs_get_no_index_file(files: Files) -> None:
    index = PackIndex(files)
    pack(files, b"one")
    index.refresh()
    index.compact()

    assert files.entries(INDEXES) == []


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "name", "letter", "number"])
def test_without_a_usable_index_file_the_packs_are_read(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = LocalFiles(tmp_path)
    index = PackIndex(files)
    pack(files, b"one")
    pack(files, b"two")
    index.refresh()
    index.compact(at_least=1)
    [path] = (tmp_path / INDEXES).iterdir()
    whole = path.read_bytes()
    names_at = 2 * 48
    left = {
        "cut": whole[:-3],
        "empty": b"",
        "name": whole[:names_at] + b"\xff" + whole[names_at + 1 :],
        "letter": whole[:names_at] + b"z" + whole[names_at + 1 :],
        "number": whole[: names_at - 1] + b"\x7f" + whole[names_at:],
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(left[damage])

    index = looked_up(files)

    assert held(index, [b"one", b"two", b"three"]) == [True, True, False]
    assert read(files, index, b"two") == [b"two"]
    assert [path.name in line for line in caplog.messages] == [True] * (damage != "gone")


def test_packs_without_images_are_passed_over(files: Files) -> None:
    index = PackIndex(files)
    for _ in range(3):
        pack(files)
    index.refresh()
    assert held(index, [b"one"]) == [False]
    index.compact(at_least=1)
    pack(files, b"one")
    index.refresh()
    index.compact(at_least=1)

    for view in (index, looked_up(files)):
        assert held(view, [b"one", b"two"]) == [True, False]


def test_a_damaged_pack_costs_its_own_images_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = LocalFiles(tmp_path)
    damaged = pack(files, b"one")
    pack(files, b"two")
    path = tmp_path / PACKS / damaged
    path.write_bytes(path.read_bytes()[:-1])

    index = looked_up(files)

    assert held(index, [b"one", b"two"]) == [False, True]
    index.refresh()
    assert [damaged in line for line in caplog.messages] == [True]


def test_a_pack_that_goes_while_it_is_looked_at_is_found_where_it_was_copied_to(
    tmp_path: Path,
) -> None:
    files = LocalFiles(tmp_path)
    old = pack(files, b"one")

    def rewrite() -> None:
        pack(files, b"one")
        files.delete(f"{PACKS}/{old}")

    index = looked_up(InterruptedFiles(tmp_path, "after entries", PACKS, rewrite))

    assert read(files, index, b"one") == [b"one"]


def test_the_newest_copy_comes_first(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    names = [pack(files, b"one", b"%d" % number) for number in range(4)]
    for age, name in enumerate(names):
        os.utime(tmp_path / PACKS / name, (1e9 - age, 1e9 - age))

    assert [place.pack for place in looked_up(files).find(digest(b"one"))] == names


def test_another_writers_index_files_are_taken_up(files: Files) -> None:
    index = looked_up(files)
    for number in range(4):
        pack(files, b"%d" % number)
    looked_up(files).compact(at_least=1)
    writer = looked_up(files)
    writer.compact(at_least=1)
    index.refresh()

    assert all(held(index, [b"%d" % number for number in range(4)]))


def test_index_files_that_another_writer_has_merged_are_let_go(files: Files) -> None:
    pack(files, b"0")
    writer = looked_up(files)
    writer.compact(at_least=1)
    reader = looked_up(files)
    for number in range(1, 4):
        pack(files, b"%d" % number)
        writer.refresh()
    writer.compact(at_least=1)
    pack(files, b"4")

    reader.refresh()

    assert all(held(reader, [b"%d" % number for number in range(5)]))
    # On this system a file that is mapped is listed here until nobody maps it.
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        del writer
        gc.collect()
        assert f"{files.url}/{INDEXES}" in mapped.read_text()
        assert "(deleted)" not in "".join(
            line for line in mapped.read_text().splitlines() if files.url in line
        )


def test_an_index_file_that_another_writer_has_merged_already_is_no_error(tmp_path: Path) -> None:
    def merge() -> None:
        for path in (tmp_path / INDEXES).iterdir():
            path.unlink()

    index = PackIndex(InterruptedFiles(tmp_path, "after stat", INDEXES, merge))
    pack(LocalFiles(tmp_path), b"one")
    index.refresh()
    index.compact(at_least=1)

    assert held(index, [b"one"]) == [True]


def test_index_files_that_say_nothing_new_are_needless(files: Files) -> None:
    name = pack(files, b"one")
    both = looked_up(files), looked_up(files)
    for index in both:
        index.compact(at_least=1)

    assert len(files.entries(INDEXES)) == 2
    assert len(looked_up(files).obsolete_files()) == 1
    files.delete(f"{PACKS}/{name}")
    assert len(looked_up(files).obsolete_files()) == 2


def test_index_files_on_object_storage(s3_root: str) -> None:
    files = open_files(s3_root)
    index = PackIndex(files)
    for number in range(6):
        pack(files, b"%d" % number)
    index.refresh()
    index.compact(at_least=6)

    assert len(files.entries(INDEXES)) == 1
    again = looked_up(files)
    assert [read(files, again, b"%d" % number) for number in range(6)] == [
        [b"%d" % number] for number in range(6)
    ]
    assert len(list_packs(files)) == 6


def test_an_empty_store_holds_nothing(store: Store) -> None:
    index = looked_up(store.files)

    assert held(index, [b"one"]) == [False]
    assert index.find(digest(b"one")) == []
    assert index.contains(np.array([], SHA256)).tolist() == []
