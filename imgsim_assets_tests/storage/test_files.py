from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest

from imgsim_assets.errors import StoreError
from imgsim_assets.storage import remote_files
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.local_files import TEMPORARY_PREFIX, LocalFiles
from imgsim_assets.storage.remote_files import RemoteFiles
from imgsim_assets.storage.store import open_files
from imgsim_assets_tests.support import s3, writer_process

STRANGE_NAMES = ["with space", "ü-é-字", "a#b", "a?b", "a%20b", "[1]", "star*", "a=b", "q'\"q"]


@pytest.fixture(params=["local", "memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """An empty root on each kind of filesystem that a store may lie on."""
    if request.param == "local":
        return open_files(str(tmp_path / "root"))
    if request.param == "memory":
        return open_files(f"memory://{uuid.uuid4().hex}")
    bucket: str = request.getfixturevalue("s3_root")
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


def test_writes_of_another_client_are_visible_immediately(s3_root: str) -> None:
    files = open_files(s3_root)
    files.write("a/first", b"x")
    assert [entry.name for entry in files.entries("a")] == ["first"]

    other = fsspec.filesystem("s3", skip_instance_cache=True)
    other.pipe_file(f"{s3_root}/a/second", b"y")

    assert [entry.name for entry in files.entries("a")] == ["first", "second"]
    assert files.read("a/second") == b"y"
    other.rm_file(f"{s3_root}/a/first")
    assert files.stat("a/first") is None


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
    assert entry.modified > time.time() - 30, "collection would take it for an old file"


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


@pytest.mark.parametrize("operation", ["write", "create", "upload"])
def test_a_write_times_out_when_the_store_does_not_respond(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").write_bytes(b"x")
    monkeypatch.setattr(remote_files, "_WRITE_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name, value in s3.environment(endpoint).items():
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        files = open_files("s3://bucket/store")
        writes: dict[str, Callable[[], None]] = {
            "write": lambda: files.write("a", b"x"),
            "create": lambda: files.create("a", b"x"),
            "upload": lambda: files.upload("a", tmp_path / "local"),
        }
        with pytest.raises(StoreError, match="s3://bucket/store did not accept a file"):
            writes[operation]()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


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


@pytest.mark.parametrize("end", ["discarded", "dropped"])
def test_a_staged_file_without_finish_leaves_nothing(tmp_path: Path, end: str) -> None:
    staged = open_files(str(tmp_path)).create_staged("a/file")
    staged.append([b"half"])
    if end == "discarded":
        staged.close()
    del staged
    gc.collect()

    assert list((tmp_path / "a").iterdir()) == []


def test_scratch_files_of_killed_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    url = f"memory://{uuid.uuid4().hex}"
    killed = os.fork()
    if not killed:
        try:
            staged = open_files(url).create_staged("a/file")
            staged.append([b"half"])
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    [left] = tmp_path.iterdir()
    in_use = open_files(url).create_staged("a/file")
    in_use.append([b"whole"])
    for path in tmp_path.iterdir():
        os.utime(path, (1e9, 1e9))

    open_files(url).create_staged("a/other").close()

    assert not left.exists()
    in_use.finish()
    assert open_files(url).read("a/file") == b"whole"


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
def test_file_names_are_not_interpreted_as_patterns(files: Files, name: str) -> None:
    files.write(f"{name}/{name}", b"x")
    files.write("plain/file", b"y")

    assert files.read(f"{name}/{name}") == b"x"
    assert [entry.name for entry in files.entries(name)] == [name]
    assert [entry.name for entry in files.entries("")] == sorted([name, "plain"])
    files.delete(f"{name}/{name}")
    assert files.entries(name) == []


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_a_local_root_may_have_any_name(tmp_path: Path, name: str) -> None:
    files = open_files(str(tmp_path / name))

    files.create("a/file", b"x")

    assert (tmp_path / name / "a" / "file").read_bytes() == b"x"


def test_create_succeeds_for_exactly_one_of_many_writers(tmp_path: Path) -> None:
    for turn in range(20):
        _race_to_create(open_files(str(tmp_path)), f"a/{turn}", writers=6)


def test_create_succeeds_for_exactly_one_of_many_writers_on_object_storage(s3_root: str) -> None:
    for turn in range(4):
        _race_to_create(open_files(s3_root), f"a/{turn}", writers=4)


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


def test_a_remote_root_has_no_local_paths(s3_root: str) -> None:
    assert open_files(s3_root).local_path("a/b") is None


@pytest.mark.parametrize(
    "url", ["http://host/store", "ftp://host/store", "az://container/store", "zip://store.zip"]
)
def test_a_filesystem_without_atomic_create_raises_naming_supported_ones(url: str) -> None:
    with pytest.raises(StoreError) as refused:
        open_files(url)

    message = str(refused.value)
    assert url.split(":")[0] + "://" in message
    assert "create-if-absent" in message
    assert "local path" in message
    assert "s3" in message


def test_a_caching_filesystem_raises() -> None:
    with pytest.raises(StoreError, match="atomic"):
        open_files("simplecache::s3://bucket/store")


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="the package is installed")
def test_a_missing_package_raises_with_the_install_command() -> None:
    with pytest.raises(StoreError) as refused:
        open_files("gs://bucket/store")

    assert "gs://bucket/store" in str(refused.value)
    assert "gcsfs" in str(refused.value)


@pytest.mark.parametrize("url", ["s3://", "memory://"])
def test_a_url_without_a_bucket_raises(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(StoreError, match="bucket"):
        open_files(url).write("a/file", b"x")


@pytest.mark.parametrize("operation", ["write", "create", "upload"])
def test_write_to_a_nonexistent_bucket_raises(s3_root: str, tmp_path: Path, operation: str) -> None:
    files = open_files(f"{s3_root}-missing/store")
    (tmp_path / "local").write_bytes(b"x")
    attempts: dict[str, Callable[[], None]] = {
        "write": lambda: files.write("a/file", b"x"),
        "create": lambda: files.create("a/file", b"x"),
        "upload": lambda: files.upload("a/file", tmp_path / "local"),
    }

    with pytest.raises(StoreError, match=f"{s3_root}-missing.*create the bucket first"):
        attempts[operation]()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[Errno 5] An error occurred (PreconditionFailed): At least one did not hold", "taken"),
        ("HTTP 412: Precondition Failed", "taken"),
        ("[Errno 28] No space left on device", "failed"),
    ],
)
def test_create_recognizes_any_wording_of_a_failed_precondition(
    answer: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(answer)

    files = open_files(f"memory://{uuid.uuid4().hex}")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", refuse)

    with pytest.raises(OSError, match=r"a/file|No space left") as refused:
        files.create("a/file", b"x")
    assert isinstance(refused.value, FileExistsError) == (expected == "taken")


@pytest.mark.slow
def test_entries_of_a_remote_folder_span_several_pages(s3_root: str) -> None:
    files = open_files(s3_root)
    fsspec.filesystem("s3", use_listings_cache=False).pipe(
        {f"{s3_root}/many/{number:04d}": b"" for number in range(1010)}
    )

    assert [entry.name for entry in files.entries("many")] == [f"{n:04d}" for n in range(1010)]


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
