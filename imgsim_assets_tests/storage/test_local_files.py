from __future__ import annotations

import errno
import gc
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from imgsim_assets.storage.local_files import TEMPORARY_PREFIX, LocalFiles
from imgsim_assets.storage.remote_files import RemoteFiles
from imgsim_assets.storage.store import open_files
from imgsim_assets_tests.storage.test_files import STRANGE_NAMES
from imgsim_assets_tests.support import writer_process


@pytest.mark.parametrize("end", ["closed", "deleted"])
def test_a_staged_file_without_finish_leaves_nothing(tmp_path: Path, end: str) -> None:
    staged = open_files(str(tmp_path)).create_staged("a/file")
    staged.append([b"half"])
    if end == "closed":
        staged.close()
    del staged
    gc.collect()

    assert list((tmp_path / "a").iterdir()) == []


def test_append_on_a_full_disk_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged = open_files(str(tmp_path)).create_staged("a/file")
    staged.append([b"kept"])
    real = os.writev

    def writes_half(descriptor: int, pieces: list[bytes]) -> int:
        return real(descriptor, [pieces[0][:2]])

    def is_full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "writev", writes_half)
        full.setattr(os, "write", is_full)
        with pytest.raises(OSError, match="No space left"):
            staged.append([b"lost", b"too"])
    staged.append([b" and more"])
    staged.finish()

    assert (tmp_path / "a" / "file").read_bytes() == b"kept and more"


def test_append_continues_after_a_short_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda to, pieces: real(to, [b"".join(pieces)[:5]]))
    staged = open_files(str(tmp_path)).create_staged("a/file")

    staged.append([b"abc", b"defg", b"", b"hi"])
    staged.finish()

    assert (tmp_path / "a" / "file").read_bytes() == b"abcdefghi"


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_local_root_may_have_any_name(tmp_path: Path, name: str) -> None:
    files = open_files(str(tmp_path / name))

    files.create("a/file", b"x")

    assert (tmp_path / name / "a" / "file").read_bytes() == b"x"


def test_a_reader_never_sees_half_a_write(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    versions = [b"a" * 300_000, b"b" * 10, b"c" * 900_000]
    files.write("file", versions[0])
    over = threading.Event()

    def write_on() -> None:
        while not over.is_set():
            for version in versions:
                files.write("file", version)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        seen = [files.read("file") for _ in range(300)]
    finally:
        over.set()
        writer.join()
    assert all(data in versions for data in seen)


def test_temporary_files_are_listed_separately(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    files.write("a/file", b"x")
    (tmp_path / "a" / f"{TEMPORARY_PREFIX}0123").write_bytes(b"half")

    assert [entry.name for entry in files.entries("a")] == ["file"]
    assert [(entry.name, entry.size) for entry in files.temporary_entries("a")] == [
        (f"{TEMPORARY_PREFIX}0123", 4)
    ]


@pytest.mark.parametrize("operation", ["write", "create", "upload"])
def test_a_full_disk_leaves_the_folder_as_it_was(tmp_path: Path, operation: str) -> None:
    files = open_files(str(tmp_path / "root"))
    files.write("a/kept", b"x")
    big = tmp_path / "big"
    big.write_bytes(bytes(1 << 20))
    attempts: dict[str, Callable[[], None]] = {
        "write": lambda: files.write("a/new", big.read_bytes()),
        "create": lambda: files.create("a/new", big.read_bytes()),
        "upload": lambda: files.upload("a/new", big),
    }

    with pytest.raises(OSError, match="File too large"):
        _with_file_size_limit(1 << 18, attempts[operation])

    assert [path.name for path in (tmp_path / "root" / "a").iterdir()] == ["kept"]


def test_a_disk_without_hard_links_raises_with_the_fix(tmp_path: Path) -> None:
    process = writer_process.start("no-hard-links", str(tmp_path))
    message, _ = process.communicate()

    assert str(tmp_path) in message
    assert "no hard links" in message
    assert "IMGSIM_STORE" in message


def test_paths_and_file_urls_are_local(tmp_path: Path) -> None:
    home = Path("~/somewhere").expanduser()

    assert _local_root(str(tmp_path)) == tmp_path
    assert _local_root(f"file://{tmp_path}") == tmp_path
    assert _local_root("~/somewhere") == home
    assert open_files(str(tmp_path)).local_path("a/b") == tmp_path / "a" / "b"


def _with_file_size_limit(limit: int, act: Callable[[], None]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        act()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _local_root(url: str) -> Path:
    files = open_files(url)
    assert not isinstance(files, RemoteFiles)
    assert isinstance(files, LocalFiles)
    return files.root
