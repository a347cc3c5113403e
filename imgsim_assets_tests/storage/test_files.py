from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from imgsim_assets.storage.files import Files
from imgsim_assets.storage.store import open_files

STRANGE_NAMES = ["with space", "ü-é-字", "a#b", "a?b", "a%20b", "[1]", "star*", "a=b", "q'\"q"]


@pytest.fixture(params=["local", "memory", "s3", "localbucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """An empty root on each kind of filesystem that a store may lie on."""
    if request.param == "local":
        return open_files(str(tmp_path / "root"))
    if request.param == "memory":
        return open_files(f"memory://{uuid.uuid4().hex}")
    bucket: str = request.getfixturevalue(f"{request.param}_root")
    return open_files(f"{bucket}/below/the bucket")


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 40])
def test_read_returns_what_write_stored(files: Files, data: bytes) -> None:
    files.write("some/deep/folder/file.bin", data)

    assert files.read("some/deep/folder/file.bin") == data


def test_write_replaces_the_whole_file(files: Files) -> None:
    files.write("a/file", b"a long first version")
    files.write("a/file", b"short")

    assert files.read("a/file") == b"short"
    assert [entry.name for entry in files.entries("a")] == ["file"]


def test_read_of_a_missing_file_raises_file_not_found(files: Files) -> None:
    files.write("a/file", b"x")

    with pytest.raises(FileNotFoundError):
        files.read("a/other")


def test_create_of_an_existing_file_raises_and_keeps_its_content(files: Files) -> None:
    files.create("a/file", b"first")

    with pytest.raises(FileExistsError):
        files.create("a/file", b"second")
    assert files.read("a/file") == b"first"
    assert [entry.name for entry in files.entries("a")] == ["file"]
    assert files.temporary_entries("a") == []


def test_delete_of_a_missing_file_succeeds(files: Files) -> None:
    files.write("a/file", b"x")

    files.delete("a/file")
    files.delete("a/file")
    files.delete("never/there")

    assert files.stat("a/file") is None


def test_entries_are_sorted_and_distinguish_files_from_folders(files: Files) -> None:
    for name in ("top/c", "top/a", "top/folder/inner", "elsewhere/x"):
        files.write(name, b"1234")

    found = files.entries("top")

    assert [(entry.name, entry.is_folder) for entry in found] == [
        ("a", False),
        ("c", False),
        ("folder", True),
    ]
    assert [entry.size for entry in found if not entry.is_folder] == [4, 4]
    assert [entry.name for entry in files.entries("") if entry.is_folder] == ["elsewhere", "top"]


def test_a_missing_folder_has_no_entries(files: Files) -> None:
    assert files.entries("nowhere") == []
    assert files.entries("") == []
    assert files.temporary_entries("nowhere") == []


def test_stat_returns_size_and_time_or_none(files: Files) -> None:
    files.write("a/file", b"12345")

    entry = files.stat("a/file")

    assert entry is not None
    assert (entry.name, entry.size, entry.is_folder) == ("file", 5, False)
    assert abs(entry.modified - time.time()) < 30
    assert files.stat("a/other") is None


def test_upload_copies_a_local_file_and_leaves_the_original(files: Files, tmp_path: Path) -> None:
    local = tmp_path / "local.bin"
    local.write_bytes(b"abc" * 1000)
    os.utime(local, (0, 0))

    files.upload("a/uploaded.bin", local)

    assert files.read("a/uploaded.bin") == local.read_bytes()
    entry = files.stat("a/uploaded.bin")
    assert entry is not None
    assert entry.modified > time.time() - 30, "garbage collection would take it for an old file"


@pytest.mark.parametrize(
    ("start", "length", "part"),
    [(0, 4, b"0123"), (3, 2, b"34"), (8, 9, b"89"), (0, 0, b""), (0, 99, b"0123456789")],
)
def test_read_range_returns_the_range(files: Files, start: int, length: int, part: bytes) -> None:
    files.write("a/file", b"0123456789")

    assert files.read_range("a/file", start, length) == part


def test_read_range_of_a_missing_file_raises_file_not_found(files: Files) -> None:
    with pytest.raises(FileNotFoundError):
        files.read_range("a/file", 0, 1)


def test_download_copies_a_file_to_this_disk(files: Files, tmp_path: Path) -> None:
    files.write("a/file", b"0123456789")

    files.download("a/file", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == b"0123456789"
    with pytest.raises(FileNotFoundError):
        files.download("a/none", tmp_path / "other")


def test_a_staged_file_is_visible_after_finish(files: Files) -> None:
    staged = files.create_staged("a/file")
    staged.append([b"one ", b"two "])
    staged.append([])
    staged.append([b"three"])

    assert (staged.size, staged.read(4, 4)) == (13, b"two ")
    assert files.entries("a") == []
    staged.finish()

    assert files.read("a/file") == b"one two three"
    assert files.temporary_entries("a") == []


def test_a_staged_file_of_very_many_pieces_is_whole(files: Files) -> None:
    pieces = [b"%d," % number for number in range(5000)]
    staged = files.create_staged("a/file")

    staged.append(pieces)
    staged.finish()

    assert files.read("a/file") == b"".join(pieces)


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_file_names_are_not_interpreted_as_patterns(files: Files, name: str) -> None:
    files.write(f"{name}/{name}", b"x")
    files.write("plain/file", b"y")

    assert files.read(f"{name}/{name}") == b"x"
    assert [entry.name for entry in files.entries(name)] == [name]
    assert [entry.name for entry in files.entries("")] == sorted([name, "plain"])
    files.delete(f"{name}/{name}")
    assert files.entries(name) == []


def test_create_succeeds_for_exactly_one_of_many_writers(tmp_path: Path) -> None:
    for turn in range(20):
        _race_to_create(open_files(str(tmp_path)), f"a/{turn}", writers=6)


def test_create_succeeds_for_exactly_one_of_many_writers_on_object_storage(s3_root: str) -> None:
    for turn in range(4):
        _race_to_create(open_files(s3_root), f"a/{turn}", writers=4)


def _race_to_create(files: Files, path: str, writers: int) -> None:
    start = threading.Barrier(writers)
    won: list[bytes] = []
    lost: list[bytes] = []

    def create(data: bytes) -> None:
        start.wait()
        try:
            files.create(path, data)
        except FileExistsError:
            lost.append(data)
        else:
            won.append(data)

    _run_threads([partial(create, f"{writer}".encode()) for writer in range(writers)])
    assert len(won) == 1
    assert len(lost) == writers - 1
    assert files.read(path) == won[0]


def _run_threads(actions: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
