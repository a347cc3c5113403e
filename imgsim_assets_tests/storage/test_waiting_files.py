"""Appends of writers that lost a race: one of them commits the files of all."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.errors import StoreError
from imgsim_assets.storage import table as table_module
from imgsim_assets.storage.commit import Commit, DataFile
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets.storage.waiting_files import WAITING, WaitingFiles

NAME = "products/vectors"


def _properties(base: Commit | None) -> dict[str, int]:
    return {"commits": (base.properties["commits"] if base else 0) + 1}


def _file(table: Table, role: str) -> DataFile:
    return table.write_bytes(role.encode(), role=role, suffix=".bin")


def _newest(table: Table) -> Commit:
    commit = table.latest()
    assert commit is not None
    return commit


def _lose(monkeypatch: pytest.MonkeyPatch, store: Store, times: int) -> Counter[str]:
    """Let another writer commit first, the first `times` that a commit is written."""
    calls: Counter[str] = Counter()
    try_commit = Table._try_commit

    def overtaken(self: Table, base: Commit | None, pending: Any) -> Any:
        calls["attempts"] += 1
        if calls["attempts"] <= times:
            other = store.table(NAME)
            made, _ = try_commit(
                other, base, table_module._appended(base, [_file(other, "rival")], {"commits": 0})
            )
            assert made is not None
        return try_commit(self, base, pending)

    monkeypatch.setattr(Table, "_try_commit", overtaken)
    return calls


def test_an_append_without_a_rival_is_one_commit_and_waits_for_nobody(store: Store) -> None:
    table = store.table(NAME)

    for number in range(3):
        assert table.append([_file(table, f"{number}")], _properties) is not None

    assert [file.role for file in _newest(table).files] == ["0", "1", "2"]
    assert _newest(table).properties == {"commits": 3}
    assert store.files.entries(f"{NAME}/{WAITING}") == []


def test_an_append_that_loses_races_is_added_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = store.table(NAME)
    calls = _lose(monkeypatch, store, times=3)

    table.append([_file(table, "mine")], _properties)

    roles = [file.role for file in _newest(table).files]
    assert roles == ["rival", "rival", "rival", "mine"]
    assert calls["attempts"] == 4
    assert store.files.entries(f"{NAME}/{WAITING}") == []


def test_the_files_of_waiting_writers_are_committed_with_ones_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = store.table(NAME)
    waiting = WaitingFiles(store.files, NAME)
    _lose(monkeypatch, store, times=1)
    monkeypatch.setattr(table_module, "_PATIENCE", 2)  # the writers of the entries never act
    entries = [waiting.announce([_file(table, name)]) for name in ("first", "second")]

    table.append([_file(table, "mine")], _properties)

    assert [file.role for file in _newest(table).files] == ["rival", "first", "second", "mine"]
    assert _newest(table).version == 2
    assert waiting.queue(entries[0]) == []


def test_a_writer_whose_files_another_one_committed_commits_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = store.table(NAME)
    _lose(monkeypatch, store, times=1)
    announce = WaitingFiles.announce

    def announce_and_lose(self: WaitingFiles, added: list[DataFile]) -> str:
        name = announce(self, added)
        other = store.table(NAME)
        other.append([*self.read([name]), _file(other, "leader")], _properties)
        self.remove([name])
        return name

    monkeypatch.setattr(WaitingFiles, "announce", announce_and_lose)

    assert table.append([_file(table, "mine")], _properties) is None
    assert [file.role for file in _newest(table).files] == ["rival", "mine", "leader"]


def test_a_damaged_or_very_old_entry_is_not_committed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = store.table(NAME)
    waiting = WaitingFiles(store.files, NAME)
    old, damaged = (waiting.announce([_file(table, name)]) for name in ("old", "damaged"))
    folder = tmp_path / "store" / NAME / WAITING
    (folder / damaged).write_bytes((folder / damaged).read_bytes().replace(b"data", b"dada"))
    hour_ago = time.time() - 3600
    os.utime(folder / old, (hour_ago, hour_ago))
    _lose(monkeypatch, store, times=1)
    monkeypatch.setattr(table_module, "_PATIENCE", 2)

    table.append([_file(table, "mine")], _properties)

    assert [file.role for file in _newest(table).files] == ["rival", "mine"]
    assert not (folder / old).exists()


def test_concurrent_appends_are_all_committed_once_in_fewer_commits(store: Store) -> None:
    def write(writer: int) -> None:
        table = store.table(NAME)
        for turn in range(8):
            table.append([_file(table, f"{writer}-{turn}")], _properties)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()

    newest = _newest(store.table(NAME))
    roles = [file.role for file in newest.files]
    assert sorted(roles) == sorted(f"{writer}-{turn}" for writer in range(8) for turn in range(8))
    for writer in range(8):  # of one writer in the order of its appends
        own = [role for role in roles if role.startswith(f"{writer}-")]
        assert own == [f"{writer}-{turn}" for turn in range(8)]
    assert newest.version <= 64
    assert newest.properties == {"commits": newest.version}
    assert store.files.entries(f"{NAME}/{WAITING}") == []


def test_a_writer_that_never_gets_a_number_gives_up_with_a_message(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = store.table(NAME)
    _lose(monkeypatch, store, times=10**6)
    monkeypatch.setattr(table_module, "_MAX_ATTEMPTS", 3)

    with pytest.raises(StoreError, match="other writers committed first 3 times in a row"):
        table.append([_file(table, "mine")], _properties)
    assert store.files.entries(f"{NAME}/{WAITING}") == []


def test_writer_that_lost_a_race_joins_the_others_before_it_tries_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = store.table(NAME)
    _lose(monkeypatch, store, 1)
    table.append([_file(table, "first")], _properties)
    announced: list[str] = []
    announce = WaitingFiles.announce

    def recorded(self: WaitingFiles, added: Any) -> str:
        announced.append(added[0].role)
        return announce(self, added)

    monkeypatch.setattr(WaitingFiles, "announce", recorded)

    table.append([_file(table, "second")], _properties)
    monkeypatch.setattr(table, "_contended_until", 0.0)
    table.append([_file(table, "third")], _properties)

    assert announced == ["second"]
    assert {file.role for file in _newest(table).files} == {"rival", "first", "second", "third"}
