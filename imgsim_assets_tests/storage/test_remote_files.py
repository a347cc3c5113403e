from __future__ import annotations

import os
import pickle
import signal
import socket
import tempfile
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pytest

from imgsim_assets.errors import SettingsError, StoreError
from imgsim_assets.storage import remote_files
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.store import Store, open_files
from imgsim_assets_tests.support import s3, writer_process
from imgsim_assets_tests.support.processes import BUSY_S


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


class _AnswerError(Exception):
    """An error of a client: `response` as botocore has it, or `code` as gcsfs has it."""

    def __init__(self, status: int | None = None, code: str | int = "X", **attributes: Any) -> None:
        super().__init__("worded as the server likes")
        if not attributes:
            metadata = {} if status is None else {"HTTPStatusCode": status}
            attributes = {"response": {"Error": {"Code": code}, "ResponseMetadata": metadata}}
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("answer", "is_taken"),
    [
        (_AnswerError(412), True),
        (_AnswerError(code="PreconditionFailed"), True),
        (_AnswerError(409, "ConditionalRequestConflict"), True),
        (_AnswerError(code=412), True),
        (_AnswerError(code="412"), True),
        (_AnswerError(403, "AccessDenied"), False),
        (_AnswerError(507, "the precondition is a disk that is not full"), False),
    ],
)
def test_create_recognizes_a_lost_race_by_its_status(
    answer: Exception, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("worded as the client likes") from answer

    files = open_files(f"memory://{uuid.uuid4().hex}")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", fail)
    monkeypatch.setattr(remote_files, "_CONFLICT_PAUSE_S", 0.0)

    with pytest.raises(OSError, match=r"a/file|as the client likes") as raised:
        files.create("a/file", b"x")
    assert isinstance(raised.value, FileExistsError) == is_taken


def test_a_conflicting_write_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    files = open_files(f"memory://{uuid.uuid4().hex}")
    memory = type(fsspec.filesystem("memory"))
    write = memory.pipe_file
    answers = [_AnswerError(409), _AnswerError(409)]

    def fail_twice(*arguments: Any, **options: Any) -> None:
        if answers:
            raise OSError("conflict") from answers.pop()
        write(*arguments, **options)

    monkeypatch.setattr(memory, "pipe_file", fail_twice)
    files.create("a/file", b"x")

    assert files.read("a/file") == b"x"


def test_a_store_that_ignores_conditional_writes_is_refused_before_the_first_write(
    nanio_root: str, tmp_path: Path
) -> None:
    (tmp_path / "local").write_bytes(b"x")
    attempts: list[Callable[[Files], object]] = [
        lambda files: files.create("a/file", b"x"),
        lambda files: files.write("a/file", b"x"),
        lambda files: files.upload("a/file", tmp_path / "local"),
        lambda files: files.create_staged("a/file"),
    ]

    for attempt in attempts:
        with pytest.raises(StoreError, match=r"does not honor conditional writes.*single_writer"):
            attempt(open_files(nanio_root))

    assert open_files(nanio_root).entries("") == []


@pytest.mark.parametrize("is_environment", [False, True])
def test_a_single_writer_may_use_a_store_that_ignores_conditional_writes(
    is_environment: bool, nanio_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_environment:
        monkeypatch.setenv("IMGSIM_SINGLE_WRITER", "true")
        files = open_files(nanio_root)
    else:
        files = Store.open(nanio_root, single_writer=True).files
    files.create("a/file", b"first")

    with pytest.raises(FileExistsError):
        files.create("a/file", b"second")
    assert files.read("a/file") == b"first"


def test_another_value_of_the_environment_variable_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IMGSIM_SINGLE_WRITER", "maybe")

    with pytest.raises(SettingsError, match="IMGSIM_SINGLE_WRITER is 'maybe'; write true or false"):
        open_files("memory://x")


@pytest.mark.parametrize("root", ["s3_root", "localbucket_root"])
def test_conditional_writes_are_tested_once_and_leave_nothing(
    root: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = open_files(request.getfixturevalue(root))
    writes = []
    create = remote_files.RemoteFiles._create

    def count(self: remote_files.RemoteFiles, path: str, data: bytes) -> None:
        writes.append(path.partition("/")[0])
        create(self, path, data)

    monkeypatch.setattr(remote_files.RemoteFiles, "_create", count)
    for number in range(3):
        files.create(f"a/{number}", b"x")

    assert writes == ["_probe", "_probe", "a", "a", "a"]
    assert [entry.name for entry in files.entries("")] == ["a"]


def test_racing_processes_on_localbucket_lose_no_commit(localbucket_root: str) -> None:
    writers = [
        writer_process.start("commit", localbucket_root, "products/images", f"w{number}", "3")
        for number in range(4)
    ]
    for writer in writers:
        writer_process.release(writer)
    outputs = [writer.communicate(timeout=BUSY_S)[0] for writer in writers]

    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]
    table = Store.open(localbucket_root).table("products/images", key="id")
    commit = table.latest()
    assert commit is not None
    assert commit.version == 12
    assert set(table.read(commit)["id"]) == set("".join(outputs).split())


@pytest.mark.slow
def test_entries_of_a_remote_folder_span_several_pages(s3_root: str) -> None:
    files = open_files(s3_root)
    fsspec.filesystem("s3", use_listings_cache=False).pipe(
        {f"{s3_root}/many/{number:04d}": b"" for number in range(1010)}
    )

    assert [entry.name for entry in files.entries("many")] == [f"{n:04d}" for n in range(1010)]


def test_files_of_a_task_are_those_of_the_same_bucket(s3_root: str) -> None:
    files = open_files(s3_root, single_writer=True)
    files.write("a/file", b"x")

    sent = pickle.loads(pickle.dumps(files))

    assert sent.read("a/file") == b"x"
