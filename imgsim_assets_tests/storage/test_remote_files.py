from __future__ import annotations

import os
import signal
import socket
import tempfile
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest

from imgsim_assets.errors import StoreError
from imgsim_assets.storage import remote_files
from imgsim_assets.storage.store import open_files
from imgsim_assets_tests.support import s3


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
    [abandoned] = tmp_path.iterdir()
    in_use = open_files(url).create_staged("a/file")
    in_use.append([b"whole"])
    for path in tmp_path.iterdir():
        os.utime(path, (1e9, 1e9))

    open_files(url).create_staged("a/other").close()

    assert not abandoned.exists()
    in_use.finish()
    assert open_files(url).read("a/file") == b"whole"


def test_a_remote_root_has_no_local_paths(s3_root: str) -> None:
    assert open_files(s3_root).local_path("a/b") is None


@pytest.mark.parametrize(
    "url", ["http://host/store", "ftp://host/store", "az://container/store", "zip://store.zip"]
)
def test_a_filesystem_without_atomic_create_raises_naming_supported_ones(url: str) -> None:
    with pytest.raises(StoreError) as raised:
        open_files(url)

    message = str(raised.value)
    assert url.split(":")[0] + "://" in message
    assert "create-if-absent" in message
    assert "local path" in message
    assert "s3" in message


def test_a_caching_filesystem_raises() -> None:
    with pytest.raises(StoreError, match="atomic"):
        open_files("simplecache::s3://bucket/store")


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="the package is installed")
def test_a_missing_package_raises_with_the_install_command() -> None:
    with pytest.raises(StoreError) as raised:
        open_files("gs://bucket/store")

    assert "gs://bucket/store" in str(raised.value)
    assert "gcsfs" in str(raised.value)


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
    def fail(*_: object, **__: object) -> None:
        raise OSError(answer)

    files = open_files(f"memory://{uuid.uuid4().hex}")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", fail)

    with pytest.raises(OSError, match=r"a/file|No space left") as raised:
        files.create("a/file", b"x")
    assert isinstance(raised.value, FileExistsError) == (expected == "taken")


@pytest.mark.slow
def test_entries_of_a_remote_folder_span_several_pages(s3_root: str) -> None:
    files = open_files(s3_root)
    fsspec.filesystem("s3", use_listings_cache=False).pipe(
        {f"{s3_root}/many/{number:04d}": b"" for number in range(1010)}
    )

    assert [entry.name for entry in files.entries("many")] == [f"{n:04d}" for n in range(1010)]
