from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.changes import read_changes
from imgsim_assets.storage.commit import (
    Commit,
    DataFile,
    PendingCommit,
    append_to_shard,
    replace_shard,
)
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.local_files import TEMPORARY_PREFIX
from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import tables, writer_process
from imgsim_assets_tests.support.damage import DAMAGES, damage_file
from imgsim_assets_tests.support.file_ages import make_older
from imgsim_assets_tests.support.interrupted import InterruptedFiles

NAME = "products/images"
IDS = [f"item-{number}" for number in range(14)]

# ---- versions ---------------------------------------------------------------------------


def test_a_new_table_has_no_versions(store: Store) -> None:
    table = store.table(NAME)

    assert table.versions() == []
    assert table.latest() is None


def test_versions_count_from_one_and_keep_their_rows(store: Store) -> None:
    table = store.table(NAME, key="id")
    for value in (10, 20, 30):
        tables.put(table, {"a": value})

    assert table.versions() == [1, 2, 3]
    assert [tables.values(table.read(table.at(version))) for version in (1, 2, 3)] == [
        {"a": 10},
        {"a": 20},
        {"a": 30},
    ]


@pytest.mark.parametrize("cuts", [[0, 30], [0, 7, 7, 29, 30], [0, 0]])
def test_chunks_are_written_as_one_file_and_read_by_key_ranges(
    store: Store, cuts: list[int]
) -> None:
    table = store.table(NAME, key="id")
    rows = tables.frame({f"{number:02}": number for number in range(30)})
    chunks = [rows[start:end] for start, end in pairwise(cuts)]
    file = table.write_sorted_chunks(iter(chunks), row_group_size=4)
    commit = table.commit(lambda _: PendingCommit([file.in_shard(Shard(0, 1))]))
    assert commit is not None

    assert file.rows == cuts[-1]
    assert table.read(commit).equals(rows[: cuts[-1]])
    with table.open_range_reader(commit, shard=Shard(0, 1), on_corrupt=pytest.fail) as read:
        assert read(("05", "21")).equals(rows[5 : min(22, cuts[-1])])
        assert read(("22", "21")).equals(rows.clear())


@pytest.mark.parametrize("root", ["disk", "memory://{}"])
@pytest.mark.parametrize("damage", ["flipped", "removed"])
def test_the_range_reader_skips_corrupt_files(root: str, damage: str, tmp_path: Path) -> None:
    opened = Store.open(str(tmp_path) if root == "disk" else root.format(tmp_path.name))
    table = opened.table(NAME, key="id")
    shard = Shard(0, 1)
    for rows in ({"a": 1, "c": 1, "e": 1}, {"b": 2, "c": 2}, {"c": 3, "d": 3}):
        files = append_to_shard(
            table.latest(), shard, [table.write_sorted_chunks([tables.frame(rows)])]
        )
        table.commit(partial(_pending, files))
    commit = table.latest()
    assert commit is not None
    messages: list[str] = []

    with table.open_range_reader(commit, shard=shard, on_corrupt=messages.append) as read:
        assert read(("b", "d")).rows() == [("c", 1), ("b", 2), ("c", 2), ("c", 3), ("d", 3)]
        assert read(("x", "y")).height == 0
    assert messages == []

    bad = f"{NAME}/{commit.files[1].path}"
    opened.files.delete(bad)
    if damage == "flipped":
        opened.files.write(bad, b"something else")
    with table.open_range_reader(commit, shard=shard, on_corrupt=messages.append) as read:
        assert read(("b", "d")).rows() == [("c", 1), ("c", 3), ("d", 3)]
        assert read(("a", "a")).rows() == [("a", 1)]
    assert len(messages) == 1
    assert bad in messages[0]


def _pending(files: Sequence[DataFile], _: Commit | None) -> PendingCommit:
    return PendingCommit(files)


def test_a_change_that_returns_none_commits_nothing(store: Store) -> None:
    table = store.table(NAME)
    assert table.commit(lambda _: None) is None
    assert table.versions() == []

    made = tables.put(table, {"a": 1})

    assert table.commit(lambda _: None) == made
    assert table.versions() == [1]


def test_a_nonexistent_version_raises_naming_existing_ones(store: Store) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    tables.put(table, {"a": 2})

    with pytest.raises(StoreError, match=rf"{NAME} has no version 7; it has \[1, 2\]"):
        table.at(7)
    with pytest.raises(StoreError, match="it has none"):
        store.table("products/other").at(1)


def test_latest_json_is_a_copy_of_the_newest_commit(store: Store, tmp_path: Path) -> None:
    table = store.table(NAME)
    for value in (1, 2):
        tables.put(table, {"a": value})

    folder = tmp_path / "store" / NAME
    latest = json.loads((folder / "_latest.json").read_text())

    assert latest == json.loads(_commit_path(tmp_path, 2).read_text())
    (file,) = latest["files"]
    assert tables.values(pl.read_parquet(folder / file["path"])) == {"a": 2}
    assert (folder / file["path"]).stat().st_size == file["bytes"]


def test_latest_json_is_the_newest_commit_after_a_race(tmp_path: Path) -> None:
    quick = Store.open(tmp_path).table(NAME)
    tables.put(quick, {"a": 1})
    files = InterruptedFiles(
        tmp_path, "after create", "_commits/", lambda: tables.put(quick, {"a": 3})
    )

    tables.put(Store(files).table(NAME), {"a": 2})

    assert quick.versions() == [1, 2, 3]
    assert json.loads((tmp_path / NAME / "_latest.json").read_text())["version"] == 3


def test_a_commit_succeeds_when_latest_json_cannot_be_written(tmp_path: Path) -> None:
    table = Store.open(tmp_path).table(NAME)
    (tmp_path / NAME / "_latest.json").mkdir(parents=True)

    commit = tables.put(table, {"a": 1})

    assert commit.version == 1
    assert table.latest() == commit


def test_a_commit_succeeds_when_latest_json_raises_any_error(tmp_path: Path) -> None:
    # Clients of object stores raise errors that are not OSError.
    def lose_connection() -> None:
        raise RuntimeError("could not connect to the endpoint")

    table = Store.open(tmp_path).table(NAME)
    files = InterruptedFiles(tmp_path, "after write", "_latest.json", lose_connection)

    commit = tables.put(Store(files).table(NAME), {"a": 1})

    assert files.acted
    assert table.latest() == commit


@pytest.mark.parametrize("name", [".DS_Store", "000000000001.json~", ".nfs00000012", "notes.txt"])
def test_foreign_files_among_the_commits_are_ignored(
    store: Store, tmp_path: Path, name: str
) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    _commit_path(tmp_path, 1).with_name(name).write_bytes(b"")

    assert table.versions() == [1]
    assert tables.put(table, {"a": 2}).version == 2


def test_a_copied_commit_file_with_another_number_raises(store: Store, tmp_path: Path) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    copy = _commit_path(tmp_path, 2)
    copy.write_bytes(_commit_path(tmp_path, 1).read_bytes())

    with pytest.raises(
        CorruptFileError, match=f"{copy} is not a commit .*copy of commit 1.*--repair"
    ):
        table.latest()

    copy.unlink()
    assert tables.put(table, {"a": 2}).version == 2


# ---- races ------------------------------------------------------------------------------


def test_a_losing_writer_reapplies_its_change_to_the_newer_commit(store: Store) -> None:
    table = store.table(NAME)
    tables.add(table, {"first": 1})
    file = table.write_rows(tables.frame({"slow": 3}))
    seen: list[int] = []

    def change(base: Commit | None) -> PendingCommit:
        assert base is not None
        seen.append(base.version)
        if len(seen) == 1:
            tables.add(store.table(NAME), {"quick": 2})
        return PendingCommit([*base.files, file])

    commit = table.commit(change)

    assert seen == [1, 2]
    assert commit is not None
    assert commit.version == 3
    assert tables.values(table.read(commit)) == {"first": 1, "quick": 2, "slow": 3}


def test_a_losing_writer_may_have_nothing_left_to_commit(store: Store) -> None:
    table = store.table(NAME)

    def change(base: Commit | None) -> PendingCommit | None:
        if base is not None:
            return None
        tables.put(store.table(NAME), {"quick": 1})
        return PendingCommit([])

    commit = table.commit(change)

    assert commit is not None
    assert tables.values(table.read(commit)) == {"quick": 1}
    assert table.versions() == [1]


def test_concurrent_commits_of_processes_lose_nothing(tmp_path: Path) -> None:
    writers = [
        writer_process.start("commit", str(tmp_path), NAME, f"w{number}", "12")
        for number in range(3)
    ]
    for writer in writers:
        writer_process.release(writer)
    acked = [row for writer in writers for row in writer.communicate()[0].split()]

    table = Store.open(tmp_path).table(NAME, key="id")
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert table.versions() == list(range(1, 37))
    assert sorted(table.read(tables.latest_commit(table))["id"]) == sorted(acked)
    assert len(acked) == 36
    for folder in ("_commits", "data", ""):
        assert Store.open(tmp_path).files.temporary_entries(f"{NAME}/{folder}") == []


def test_concurrent_commits_of_threads_lose_nothing_on_object_storage(s3_root: str) -> None:
    def write(writer: int) -> None:
        table = Store.open(s3_root).table(NAME, key="id")
        for number in range(3):
            tables.add(table, {f"{writer}-{number}": number})

    _run_threads([partial(write, writer) for writer in range(3)])

    table = Store.open(s3_root).table(NAME, key="id")
    assert table.versions() == list(range(1, 10))
    assert sorted(table.read(tables.latest_commit(table))["id"]) == [
        f"{writer}-{number}" for writer in range(3) for number in range(3)
    ]


def test_a_commit_with_a_lost_response_is_not_repeated(tmp_path: Path) -> None:
    # S3 clients repeat a request whose answer did not arrive, and are then messages that it exists.
    def lose_response() -> None:
        raise FileExistsError

    tables.add(Store.open(tmp_path).table(NAME), {"a": 1})
    files = InterruptedFiles(tmp_path, "after create", "_commits/", lose_response)
    tables.add(Store(files).table(NAME), {"b": 2})

    table = Store.open(tmp_path).table(NAME)
    assert sorted(table.read(tables.latest_commit(table))["id"]) == ["a", "b"]


def test_a_pinned_commit_reads_the_same_during_later_commits(store: Store) -> None:
    table = store.table(NAME, key="id")
    shards = [Shard(0, 2), Shard(1, 2)]
    content = dict.fromkeys(IDS, 0)
    for shard in shards:
        tables.put_snapshot(table, shard, tables.items_of_shard(content, shard))
    pinned = tables.latest_commit(table)

    def write() -> None:
        for turn in range(1, 16):
            files: list[DataFile] = []
            for shard in shards:
                shard_rows = dict.fromkeys(tables.items_of_shard(content, shard), turn)
                files += replace_shard(None, shard, [table.write_rows(tables.frame(shard_rows))])
            table.commit(partial(_replace_files, files))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while writer.is_alive():
            assert tables.values(table.read(pinned)) == content
            newest = tables.values(table.read(tables.latest_commit(table)))
            assert newest.keys() == content.keys()
            assert len(set(newest.values())) == 1, "a commit of two files was seen by halves"
    finally:
        writer.join()
    assert tables.values(table.read(tables.latest_commit(table))) == dict.fromkeys(IDS, 15)
    assert tables.values(table.read(table.at(pinned.version))) == content


# ---- crashes ----------------------------------------------------------------------------


def test_killed_writers_lose_no_confirmed_commit(tmp_path: Path) -> None:
    chance = random.Random(7)
    acked: set[str] = set()
    attempted = 0
    for turn in range(2):
        writers = [
            writer_process.start("commit", str(tmp_path), NAME, f"turn{turn}-{number}", "0")
            for number in range(2)
        ]
        for writer in writers:
            writer_process.release(writer)
        for writer in writers:
            time.sleep(chance.uniform(0.05, 0.3))
            writer.kill()
            confirmed = writer.communicate()[0]
            acked.update(confirmed[: confirmed.rfind("\n") + 1].split())
            attempted += 1

        table = Store.open(tmp_path).table(NAME, key="id")
        stored = set(table.read(tables.latest_commit(table))["id"])
        assert acked <= stored
        assert len(stored - acked) <= attempted, "at most one commit a writer is unconfirmed"
        assert table.versions() == list(range(1, table.versions()[-1] + 1))


def test_a_writer_may_be_killed_before_any_file_operation(tmp_path: Path) -> None:
    process = writer_process.start("crash", str(tmp_path))
    outcomes = dict(line.split() for line in process.communicate()[0].splitlines())
    assert process.returncode == 0
    assert list(outcomes.values()).count("committed") == 2
    assert len(outcomes) > 20

    store = Store.open(tmp_path)
    for name, outcome in outcomes.items():
        table = store.table(name)
        before = [b"before"] if "again" in name else []
        commit = table.latest()
        found = [table.read_bytes(file) for file in commit.files] if commit else []
        assert found == [*before, b"after"] or (found == before and outcome == "crashed"), name
        file = table.write_bytes(b"later", role="bytes", suffix=".bin")
        following = table.commit(partial(_append_file, file))
        assert following is not None
        assert [table.read_bytes(file) for file in following.files] == [*found, b"later"], name
        assert table.versions() == list(range(1, following.version + 1)), name

    make_older(tmp_path, hours=2)
    collect_garbage(store, RetentionPolicy(retain_last=9, min_age_hours=1))
    for name in outcomes:
        table = store.table(name)
        assert [table.read_bytes(file) for file in tables.latest_commit(table).files][
            -1
        ] == b"later"
        named = {Path(file.path).name for file in tables.latest_commit(table).files}
        assert {path.name for path in (tmp_path / name / "data").iterdir()} == named
        assert not list((tmp_path / name).rglob(f"{TEMPORARY_PREFIX}*"))


# ---- damage -----------------------------------------------------------------------------


def test_corrupt_files_are_skipped_with_on_corrupt(store: Store) -> None:
    table = store.table(NAME, key="id")
    tables.add(table, {"a": 1, "b": 1})
    commit = tables.add(table, {"b": 2, "c": 2})
    first, second = table.local_paths(commit) or []
    messages: list[str] = []
    assert tables.values(table.read(commit, on_corrupt=messages.append)) == {"a": 1, "b": 2, "c": 2}
    assert messages == []

    damage_file(second, DAMAGES["middle byte flipped"])
    assert tables.values(table.read(commit, on_corrupt=messages.append)) == {"a": 1, "b": 1}
    assert [str(second) in line for line in messages] == [True]

    damage_file(first, DAMAGES["deleted"])
    assert table.read(commit, on_corrupt=messages.append).shape == (0, 0)
    with pytest.raises(CorruptFileError, match=str(first)):
        table.read(commit)


@pytest.mark.parametrize("damage", ["emptied", "one byte left", "cut in half", "last byte missing"])
def test_a_damaged_commit_raises_with_the_fix(store: Store, tmp_path: Path, damage: str) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    tables.put(table, {"a": 2})
    path = _commit_path(tmp_path, 2)
    damage_file(path, DAMAGES[damage])

    with pytest.raises(CorruptFileError, match=f"{path} .*imgsim verify --repair"):
        table.latest()

    path.unlink()
    assert tables.values(table.read(tables.latest_commit(table))) == {"a": 1}


# ---- rows -------------------------------------------------------------------------------


def test_a_later_row_replaces_an_earlier_row_of_the_same_key(store: Store) -> None:
    table = store.table(NAME, key="id")
    tables.add(table, {"a": 1, "b": 1})
    commit = tables.add(table, {"c": 2, "b": 2})

    rows = table.read(commit)

    assert list(rows.iter_rows()) == [("a", 1), ("c", 2), ("b", 2)]
    assert commit.rows == 4


def test_without_a_key_every_row_is_read(store: Store) -> None:
    table = store.table(NAME)
    tables.add(table, {"a": 1})
    commit = tables.add(table, {"a": 1})

    assert list(table.read(commit).iter_rows()) == [("a", 1), ("a", 1)]


def test_a_later_row_replaces_an_earlier_row_within_a_file(store: Store) -> None:
    table = store.table(NAME, key="id")
    file = table.write_rows(pl.DataFrame({"id": ["a", "a"], "value": [1, 2]}))
    commit = table.commit(lambda _: PendingCommit([file]))
    assert commit is not None

    assert list(table.read(commit).iter_rows()) == [("a", 2)]


def test_selecting_columns_still_deduplicates_by_key(store: Store) -> None:
    table = store.table(NAME, key="id")
    tables.add(table, {"a": 1, "b": 1})
    commit = tables.add(table, {"b": 2})

    assert table.read(commit, columns=["value"])["value"].to_list() == [1, 2]


def test_files_of_other_roles_are_not_read_as_rows(store: Store) -> None:
    table = store.table(NAME)
    other_file = table.write_rows(tables.frame({"x": 9}), role="keys")
    assert tables.put(table, {"a": 1}).rows == 1

    commit = table.commit(lambda base: PendingCommit([*(base.files if base else ()), other_file]))

    assert commit is not None
    assert tables.values(table.read(commit)) == {"a": 1}
    assert commit.rows == 1
    assert tables.values(table.read_file(commit.files_with_role("keys")[0])) == {"x": 9}


def test_a_commit_without_row_files_reads_as_an_empty_frame(store: Store) -> None:
    table = store.table(NAME)
    commit = table.commit(lambda _: PendingCommit([]))
    assert commit is not None

    assert table.read(commit).shape == (0, 0)


# ---- helpers ----------------------------------------------------------------------------


def _replace_files(files: Sequence[DataFile], _: Commit | None) -> PendingCommit:
    return PendingCommit(files)


def _append_file(file: DataFile, base: Commit | None) -> PendingCommit:
    return PendingCommit([*(base.files if base else ()), file])


def _run_threads(actions: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _commit_path(tmp_path: Path, version: int) -> Path:
    return tmp_path / "store" / NAME / "_commits" / f"{version:012d}.json"


# ---- keys of several columns ------------------------------------------------------------

_NUMBERED = ("id", "image")


def _numbered(rows: Sequence[tuple[str, int, str]]) -> pl.DataFrame:
    schema = {"id": pl.String, "image": pl.Int32, "value": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_a_later_row_replaces_that_with_the_same_values_of_all_key_columns(store: Store) -> None:
    table = store.table(NAME, key=_NUMBERED)
    shard = Shard(0, 1)
    for rows in ([("a", 0, "old"), ("a", 1, "kept"), ("b", 0, "kept")], [("a", 0, "new")]):
        file = table.write_sorted_chunks([_numbered(rows)])
        table.commit(partial(_pending, append_to_shard(table.latest(), shard, [file])))
    commit = table.latest()
    assert commit is not None
    expected = [("a", 0, "new"), ("a", 1, "kept"), ("b", 0, "kept")]

    assert commit.key == _NUMBERED
    assert sorted(table.read(commit).rows()) == expected
    assert sorted(read_table(NAME, store=store).collect().rows()) == expected
    assert read_changes(NAME, since=1, store=store).rows.rows() == [("changed", "a", 0, "new")]


def test_a_file_without_the_further_key_columns_has_the_number_0(store: Store) -> None:
    shard = Shard(0, 2)
    earlier = store.table(NAME, key="id")
    file = earlier.write_rows(_numbered([("a", 0, "old"), ("b", 0, "kept")]).drop("image"))
    first = earlier.commit(partial(_pending, replace_shard(None, shard, [file])))
    assert first is not None
    table = store.table(NAME, key=_NUMBERED)

    assert table.read(first, columns=["value"]).rows() == [("old", "a", 0), ("kept", "b", 0)]
    assert table.read_file(first.files[0], ["value"]).rows() == [("old",), ("kept",)]

    file = table.write_rows(_numbered([("a", 0, "new"), ("a", 1, "more")]))
    second = table.commit(partial(_pending, append_to_shard(first, shard, [file])))
    assert second is not None
    expected = [("a", 0, "new"), ("a", 1, "more"), ("b", 0, "kept")]

    assert sorted(table.read(second).rows()) == expected
    assert sorted(read_table(NAME, store=store).collect().rows()) == expected
    with table.open_range_reader(second, shard=shard, on_corrupt=pytest.fail) as read:
        assert read(("a", "a")).rows() == [("a", 0, "old"), ("a", 0, "new"), ("a", 1, "more")]

    other = append_to_shard(first, Shard(1, 2), [table.write_rows(_numbered([("c", 1, "x")]))])
    third = table.commit(partial(_pending, other))
    assert third is not None
    rows = read_table(NAME, store=store).collect().rows()
    assert sorted(rows) == [("a", 0, "old"), ("b", 0, "kept"), ("c", 1, "x")]
