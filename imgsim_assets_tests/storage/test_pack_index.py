from __future__ import annotations

import gc
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.storage import sorted_runs
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.local_files import LocalFiles
from imgsim_assets.storage.pack_index import PackIndex
from imgsim_assets.storage.packs import PACKS, SHA256, PackWriter, list_packs
from imgsim_assets.storage.sorted_runs import INDEXES
from imgsim_assets.storage.store import Store, open_files
from imgsim_assets_tests.support.interrupted import InterruptedFiles


def digest(image: bytes) -> bytes:
    return hashlib.sha256(image).digest()


def pack(files: Files, *images: bytes) -> str:
    writer = PackWriter(files)
    writer.add([digest(image) for image in images], images)
    writer.finish()
    return writer.name


def refreshed_index(files: Files) -> PackIndex:
    index = PackIndex(files)
    index.refresh()
    return index


def read(files: Files, index: PackIndex, image: bytes) -> list[bytes]:
    return [
        files.read_range(f"{PACKS}/{location.pack}", location.start, location.length)
        for location in index.find(digest(image))
    ]


def contained(index: PackIndex, images: list[bytes]) -> list[bool]:
    digests = [digest(image) for image in images]
    found: list[bool] = index.contains(np.array(digests, SHA256)).tolist()
    listed = index.filter_known(digests)  # also images of deleted packs
    assert {
        digest_ for digest_, is_contained in zip(digests, found, strict=True) if is_contained
    } <= set(listed)
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
def test_published_images_are_found_after_any_history(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    files = LocalFiles(tmp_path_factory.mktemp("store"))
    index = PackIndex(files)
    packs: dict[str, set[int]] = {}
    for kind, numbers in steps:
        if kind == "pack":
            packs[pack(files, *(b"%d" % number for number in numbers))] = set(numbers)
        elif kind == "refresh":
            index.refresh()
        elif kind == "compact":
            index.compact(at_least=1)
        elif packs:
            name = sorted(packs)[numbers[0] % len(packs)]
            del packs[name]
            files.delete(f"{PACKS}/{name}")
    index.refresh()
    for view in (index, refreshed_index(files)):
        expected = [any(number in one for one in packs.values()) for number in range(13)]
        assert contained(view, [b"%d" % number for number in range(13)]) == expected
        for number in range(13):
            copies = {name for name, numbers in packs.items() if number in numbers}
            assert {location.pack for location in view.find(digest(b"%d" % number))} == copies
            assert read(files, view, b"%d" % number) == [b"%d" % number] * len(copies)


def test_many_packs_share_few_index_files(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_runs, "_SLICE_IMAGES", 16)
    index = PackIndex(files)
    for number in range(60):
        pack(files, b"%d" % number, b"second of %d" % number)
        index.refresh()
        index.compact(at_least=4)

    assert len(files.entries(INDEXES)) <= 4
    for view in (index, refreshed_index(files)):
        for number in range(60):
            assert read(files, view, b"second of %d" % number) == [b"second of %d" % number]


def test_packs_with_an_index_file_are_not_read(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    index = PackIndex(files)
    names = [pack(files, b"%d" % number) for number in range(5)]
    index.refresh()
    index.compact(at_least=5)
    for name in names:  # opening one of them would fail
        (tmp_path / PACKS / name).write_bytes(b"")

    assert all(contained(refreshed_index(files), [b"%d" % number for number in range(5)]))


def test_few_packs_get_no_index_file(files: Files) -> None:
    index = PackIndex(files)
    pack(files, b"one")
    index.refresh()
    index.compact()

    assert files.entries(INDEXES) == []


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "name", "letter", "number"])
def test_packs_are_read_when_their_index_file_is_unusable(
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
    contents = {
        "cut": whole[:-3],
        "empty": b"",
        "name": whole[:names_at] + b"\xff" + whole[names_at + 1 :],
        "letter": whole[:names_at] + b"z" + whole[names_at + 1 :],
        "number": whole[: names_at - 1] + b"\x7f" + whole[names_at:],
    }
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(contents[damage])

    index = refreshed_index(files)

    assert contained(index, [b"one", b"two", b"three"]) == [True, True, False]
    assert read(files, index, b"two") == [b"two"]
    assert [path.name in line for line in caplog.messages] == [True] * (damage != "gone")


def test_empty_packs_are_skipped(files: Files) -> None:
    index = PackIndex(files)
    for _ in range(3):
        pack(files)
    index.refresh()
    assert contained(index, [b"one"]) == [False]
    index.compact(at_least=1)
    pack(files, b"one")
    index.refresh()
    index.compact(at_least=1)

    for view in (index, refreshed_index(files)):
        assert contained(view, [b"one", b"two"]) == [True, False]


def test_a_damaged_pack_does_not_affect_images_of_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = LocalFiles(tmp_path)
    damaged = pack(files, b"one")
    pack(files, b"two")
    path = tmp_path / PACKS / damaged
    path.write_bytes(path.read_bytes()[:-1])

    index = refreshed_index(files)

    assert contained(index, [b"one", b"two"]) == [False, True]
    index.refresh()
    assert [damaged in line for line in caplog.messages] == [True]


def test_an_image_is_found_when_its_pack_is_rewritten_during_refresh(
    tmp_path: Path,
) -> None:
    files = LocalFiles(tmp_path)
    old = pack(files, b"one")

    def rewrite() -> None:
        pack(files, b"one")
        files.delete(f"{PACKS}/{old}")

    index = refreshed_index(InterruptedFiles(tmp_path, "after entries", PACKS, rewrite))

    assert read(files, index, b"one") == [b"one"]


def test_find_returns_the_newest_copy_first(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    names = [pack(files, b"one", b"%d" % number) for number in range(4)]
    for age, name in enumerate(names):
        os.utime(tmp_path / PACKS / name, (1e9 - age, 1e9 - age))

    assert [location.pack for location in refreshed_index(files).find(digest(b"one"))] == names


def test_index_files_of_another_writer_are_opened(files: Files) -> None:
    index = refreshed_index(files)
    for number in range(4):
        pack(files, b"%d" % number)
    refreshed_index(files).compact(at_least=1)
    writer = refreshed_index(files)
    writer.compact(at_least=1)
    index.refresh()

    assert all(contained(index, [b"%d" % number for number in range(4)]))


def test_index_files_merged_by_another_writer_are_unmapped(files: Files) -> None:
    pack(files, b"0")
    writer = refreshed_index(files)
    writer.compact(at_least=1)
    reader = refreshed_index(files)
    for number in range(1, 4):
        pack(files, b"%d" % number)
        writer.refresh()
    writer.compact(at_least=1)
    pack(files, b"4")

    reader.refresh()

    assert all(contained(reader, [b"%d" % number for number in range(5)]))
    # On Linux this file lists every mapped file.
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        del writer
        gc.collect()
        assert f"{files.url}/{INDEXES}" in mapped.read_text()
        assert "(deleted)" not in "".join(
            line for line in mapped.read_text().splitlines() if files.url in line
        )


def test_compact_succeeds_when_another_writer_merges_its_file(tmp_path: Path) -> None:
    def merge() -> None:
        for path in (tmp_path / INDEXES).iterdir():
            path.unlink()

    index = PackIndex(InterruptedFiles(tmp_path, "after stat", INDEXES, merge))
    pack(LocalFiles(tmp_path), b"one")
    index.refresh()
    index.compact(at_least=1)

    assert contained(index, [b"one"]) == [True]


def test_redundant_index_files_are_obsolete(files: Files) -> None:
    name = pack(files, b"one")
    both = refreshed_index(files), refreshed_index(files)
    for index in both:
        index.compact(at_least=1)

    assert len(files.entries(INDEXES)) == 2
    assert len(refreshed_index(files).obsolete_files()) == 1
    files.delete(f"{PACKS}/{name}")
    assert len(refreshed_index(files).obsolete_files()) == 2


def test_index_files_on_object_storage(s3_root: str) -> None:
    files = open_files(s3_root)
    index = PackIndex(files)
    for number in range(6):
        pack(files, b"%d" % number)
    index.refresh()
    index.compact(at_least=6)

    assert len(files.entries(INDEXES)) == 1
    again = refreshed_index(files)
    assert [read(files, again, b"%d" % number) for number in range(6)] == [
        [b"%d" % number] for number in range(6)
    ]
    assert len(list_packs(files)) == 6


def test_an_empty_store_contains_nothing(store: Store) -> None:
    index = refreshed_index(store.files)

    assert contained(index, [b"one"]) == [False]
    assert index.find(digest(b"one")) == []
    assert index.contains(np.array([], SHA256)).tolist() == []
