"""How the newest commit is found, and in how many requests."""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.commit_log import LATEST, CommitLog, commit_path
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.store import Store, open_files
from imgsim_assets.storage.table import Table

NAME = "products/images"


class _CountedFiles:
    """Files that count their calls, each of which is a request to an object store."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._files, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return value(*arguments, **options)

        return call


def _write(files: Files, version: int, copy: bool = True) -> None:
    commit = Commit(NAME, version, (), "2026-01-01T00:00:00.000+00:00")
    files.write(commit_path(NAME, version), commit.to_json())
    if copy:
        files.write(f"{NAME}/{LATEST}", commit.to_json())


def _latest(files: Files) -> int | None:
    commit = CommitLog(files, NAME).latest()
    return commit.version if commit is not None else None


def test_the_newest_of_ten_thousand_commits_is_found_in_three_requests() -> None:
    files = open_files("memory://many_commits")
    for version in range(1, 10_001):
        _write(files, version, copy=version == 10_000)
    counted = _CountedFiles(files)

    assert _latest(counted) == 10_000

    assert sum(counted.calls.values()) <= 3
    assert not counted.calls["entries"]


@pytest.mark.parametrize("behind", [1, 2, 7, 8, 9, 30])
def test_a_copy_that_lags_behind_leads_to_the_newest_commit(behind: int, tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    for version in range(1, 32):
        _write(files, version, copy=version == 31 - behind)
    counted = _CountedFiles(files)

    assert _latest(counted) == 31
    assert sum(counted.calls.values()) <= 3 + 9


def test_without_a_usable_copy_the_commits_are_listed(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    assert _latest(files) is None
    for version in range(5, 8):
        _write(files, version)
    copy = files.read(f"{NAME}/{LATEST}")

    for damaged in (b"", b"{}", copy[:-1], copy.replace(b'"version": 7', b'"version": 5')):
        files.write(f"{NAME}/{LATEST}", damaged)
        assert _latest(files) == 7
    files.delete(f"{NAME}/{LATEST}")
    assert _latest(files) == 7


def test_a_copy_of_a_deleted_commit_is_not_believed(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    for version in range(1, 4):
        _write(files, version)

    files.delete(commit_path(NAME, 3))

    assert _latest(files) == 2


def test_damaged_commits_raise_only_if_they_are_the_newest(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    for version in range(1, 5):
        _write(files, version, copy=version == 2)

    for damaged in (2, 3):
        files.write(commit_path(NAME, damaged), b"{")
        assert _latest(files) == 4
    files.write(commit_path(NAME, 4), b"{")
    with pytest.raises(CorruptFileError, match=r"000000000004.json is not a commit"):
        _latest(files)


def test_an_append_to_a_table_with_many_commits_makes_few_requests(tmp_path: Path) -> None:
    files = open_files(str(tmp_path))
    for version in range(1, 1500):
        _write(files, version, copy=version == 1499)
    counted = _CountedFiles(files)

    Table(counted, NAME).commit(lambda _: PendingCommit([]))

    assert counted.calls == {"read": 3, "create": 1, "write": 1, "stat": 1}


def test_racing_commits_are_all_applied_and_the_copy_is_the_newest(store: Store) -> None:
    def appended(file: DataFile, base: Commit | None) -> PendingCommit:
        return PendingCommit([*(base.files if base else ()), file])

    def write(writer: int) -> None:
        table = store.table(NAME)
        for turn in range(10):
            file = table.write_bytes(b"x", role=f"{writer}-{turn}", suffix=".bin")
            table.commit(partial(appended, file))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()

    newest = store.table(NAME).latest()
    assert newest is not None
    assert newest.version == 40
    assert len({file.role for file in newest.files}) == 40
    assert Commit.from_json(store.files.read(f"{NAME}/{LATEST}")) == newest
