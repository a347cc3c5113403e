from __future__ import annotations

import hashlib
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.commit import (
    Commit,
    DataFile,
    PendingCommit,
    append_to_shard,
    replace_shard,
)
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.local_files import TEMPORARY_PREFIX
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support import tables, writer_process
from imgsim_assets_tests.support.file_ages import make_older
from imgsim_assets_tests.support.interrupted import InterruptedFiles

NAME = "products/images"
IDS = [f"item-{number}" for number in range(14)]

Damage = Callable[[bytes], bytes | None]
DAMAGES: dict[str, Damage] = {
    "emptied": lambda _: b"",
    "one byte left": lambda data: data[:1],
    "cut in half": lambda data: data[: len(data) // 2],
    "last byte missing": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "first byte flipped": lambda data: _flipped(data, 0),
    "middle byte flipped": lambda data: _flipped(data, len(data) // 2),
    "last byte flipped": lambda data: _flipped(data, len(data) - 1),
    "deleted": lambda _: None,
}

# ---- versions ---------------------------------------------------------------------------


def test_a_table_that_was_never_written_has_no_version(store: Store) -> None:
    table = store.table(NAME)

    assert table.versions() == []
    assert table.latest() is None


def test_versions_count_up_from_one_and_each_keeps_its_rows(store: Store) -> None:
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
def test_rows_written_in_pieces_are_one_file_that_is_read_by_ranges(
    store: Store, cuts: list[int]
) -> None:
    table = store.table(NAME, key="id")
    rows = tables.frame({f"{number:02}": number for number in range(30)})
    pieces = [rows[start:end] for start, end in pairwise(cuts)]
    file = table.write_sorted_chunks(iter(pieces), row_group_size=4)
    commit = table.commit(lambda _: PendingCommit([file.in_shard(Shard(0, 1))]))
    assert commit is not None

    assert file.rows == cuts[-1]
    assert table.read(commit).equals(rows[: cuts[-1]])
    with table.open_range_reader(commit, shard=Shard(0, 1), on_corrupt=pytest.fail) as read:
        assert read(("05", "21")).equals(rows[5 : min(22, cuts[-1])])
        assert read(("22", "21")).equals(rows.clear())


@pytest.mark.parametrize("place", ["disk", "memory://{}"])
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_ranges_of_a_table_are_those_of_its_sound_files(
    place: str, damage: str, tmp_path: Path
) -> None:
    opened = Store.open(str(tmp_path) if place == "disk" else place.format(tmp_path.name))
    table = opened.table(NAME, key="id")
    shard = Shard(0, 1)
    for rows in ({"a": 1, "c": 1, "e": 1}, {"b": 2, "c": 2}, {"c": 3, "d": 3}):
        files = append_to_shard(
            table.latest(), shard, [table.write_sorted_chunks([tables.frame(rows)])]
        )
        table.commit(partial(_drafted, files))
    commit = table.latest()
    assert commit is not None
    told: list[str] = []

    with table.open_range_reader(commit, shard=shard, on_corrupt=told.append) as read:
        assert read(("b", "d")).rows() == [("c", 1), ("b", 2), ("c", 2), ("c", 3), ("d", 3)]
        assert read(("x", "y")).height == 0
    assert told == []

    bad = f"{NAME}/{commit.files[1].path}"
    opened.files.delete(bad)
    if damage == "flipped":
        opened.files.write(bad, b"something else")
    with table.open_range_reader(commit, shard=shard, on_corrupt=told.append) as read:
        assert read(("b", "d")).rows() == [("c", 1), ("c", 3), ("d", 3)]
        assert read(("a", "a")).rows() == [("a", 1)]
    assert len(told) == 1
    assert bad in told[0]


def _drafted(files: Sequence[DataFile], _: Commit | None) -> PendingCommit:
    return PendingCommit(files)


def test_a_failure_of_a_piece_is_the_failure_of_the_file(store: Store) -> None:
    def pieces() -> Iterator[pl.DataFrame]:
        yield tables.frame({"a": 1})
        raise CorruptFileError("the second piece")

    with pytest.raises(CorruptFileError, match="the second piece"):
        store.table(NAME, key="id").write_sorted_chunks(pieces())


def test_a_commit_reads_back_with_all_that_was_said_about_it(tmp_path: Path) -> None:
    table = Store.open(tmp_path, run_id="run-7").table(NAME, key="id")
    file = (
        table.write_rows(tables.frame({"a": 1}))
        .in_shard(Shard(1, 3))
        .with_metadata(part="p", n=[1, 2])
    )
    beside = table.write_bytes(b"beside", role="index", suffix=".bin")

    made = table.commit(
        lambda _: PendingCommit(
            [file, beside], inputs={"images": 4}, properties={"deep": {"er": [None]}}
        )
    )

    read = Store.open(tmp_path).table(NAME).latest()
    assert read == made
    assert read is not None
    assert (read.table, read.version, read.key, read.run_id) == (NAME, 1, "id", "run-7")
    assert read.commit_id not in ("", tables.put(table, {}).commit_id)
    assert (read.inputs, read.properties) == ({"images": 4}, {"deep": {"er": [None]}})
    assert read.file_with_role("index") == beside
    assert read.file_with_role("nothing of the kind") is None
    assert read.rows == 1


def test_a_change_that_wants_nothing_commits_nothing(store: Store) -> None:
    table = store.table(NAME)
    assert table.commit(lambda _: None) is None
    assert table.versions() == []

    made = tables.put(table, {"a": 1})

    assert table.commit(lambda _: None) == made
    assert table.versions() == [1]


def test_a_version_that_is_not_kept_is_refused_naming_those_that_are(store: Store) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    tables.put(table, {"a": 2})

    with pytest.raises(StoreError, match=rf"{NAME} has no version 7; it has \[1, 2\]"):
        table.at(7)
    with pytest.raises(StoreError, match="it has none"):
        store.table("products/other").at(1)


def test_a_store_of_a_newer_format_asks_for_an_upgrade(store: Store, tmp_path: Path) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    path = _commit_path(tmp_path, 1)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}))

    with pytest.raises(StoreError, match=r"products/images .*format 3.*upgrade imgsim_assets"):
        table.latest()


def test_a_store_of_an_earlier_format_asks_for_a_new_store(store: Store, tmp_path: Path) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    path = _commit_path(tmp_path, 1)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))

    with pytest.raises(StoreError, match=r"products/images .*earlier version.*new store"):
        table.latest()


def test_a_commit_of_the_first_release_is_read_by_every_later_one(
    store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "store" / NAME
    (folder / "data").mkdir(parents=True)
    (folder / "_commits").mkdir()
    tables.frame({"a": 1, "b": 2}).write_parquet(folder / "data" / "one.parquet")
    body = (folder / "data" / "one.parquet").read_bytes()
    (folder / "_commits" / "000000000012.json").write_text(
        json.dumps(
            {
                "format": 2,
                "table": NAME,
                "version": 12,
                "commit_id": "0123456789abcdef0123456789abcdef",
                "committed_at": "2026-01-02T03:04:05.678+00:00",
                "run_id": None,
                "key": "id",
                "inputs": {"items": 3},
                "properties": {"refers_to_blobs": True},
                "files": [
                    {
                        "path": "data/one.parquet",
                        "bytes": len(body),
                        "sha256": hashlib.sha256(body).hexdigest(),
                        "rows": 2,
                        "role": "rows",
                        "shard": 0,
                        "shard_count": 1,
                        "is_snapshot": True,
                    }
                ],
            }
        )
    )
    table = store.table(NAME, key="id")

    assert tables.values(table.read(tables.latest_commit(table))) == {"a": 1, "b": 2}
    assert tables.put(table, {"a": 3}).version == 13


def test_readers_outside_python_find_the_newest_commit_beside_the_table(
    store: Store, tmp_path: Path
) -> None:
    table = store.table(NAME)
    for value in (1, 2):
        tables.put(table, {"a": value})

    folder = tmp_path / "store" / NAME
    latest = json.loads((folder / "_latest.json").read_text())

    assert latest == json.loads(_commit_path(tmp_path, 2).read_text())
    (file,) = latest["files"]
    assert tables.values(pl.read_parquet(folder / file["path"])) == {"a": 2}
    assert (folder / file["path"]).stat().st_size == file["bytes"]


def test_the_copy_for_readers_outside_python_is_the_newest_after_a_race(tmp_path: Path) -> None:
    quick = Store.open(tmp_path).table(NAME)
    tables.put(quick, {"a": 1})
    files = InterruptedFiles(
        tmp_path, "after create", "_commits/", lambda: tables.put(quick, {"a": 3})
    )

    tables.put(Store(files).table(NAME), {"a": 2})

    assert quick.versions() == [1, 2, 3]
    assert json.loads((tmp_path / NAME / "_latest.json").read_text())["version"] == 3


def test_a_commit_is_not_reported_as_failed_once_it_is_made(tmp_path: Path) -> None:
    table = Store.open(tmp_path).table(NAME)
    (tmp_path / NAME / "_latest.json").mkdir(parents=True)

    commit = tables.put(table, {"a": 1})

    assert commit.version == 1
    assert table.latest() == commit


def test_no_error_of_a_filesystem_takes_a_commit_back(tmp_path: Path) -> None:
    # The clients of object stores have errors that are no OSError.
    def lose_the_connection() -> None:
        raise RuntimeError("could not connect to the endpoint")

    table = Store.open(tmp_path).table(NAME)
    files = InterruptedFiles(tmp_path, "after write", "_latest.json", lose_the_connection)

    commit = tables.put(Store(files).table(NAME), {"a": 1})

    assert files.acted
    assert table.latest() == commit


@pytest.mark.parametrize("name", [".DS_Store", "000000000001.json~", ".nfs00000012", "notes.txt"])
def test_a_foreign_file_among_the_commits_is_passed_over(
    store: Store, tmp_path: Path, name: str
) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    _commit_path(tmp_path, 1).with_name(name).write_bytes(b"")

    assert table.versions() == [1]
    assert tables.put(table, {"a": 2}).version == 2


def test_a_copy_of_a_commit_under_another_number_is_no_version(
    store: Store, tmp_path: Path
) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    copy = _commit_path(tmp_path, 2)
    copy.write_bytes(_commit_path(tmp_path, 1).read_bytes())

    with pytest.raises(CorruptFileError, match=f"{copy} is a copy of commit 1; delete it"):
        table.latest()

    copy.unlink()
    assert tables.put(table, {"a": 2}).version == 2


# ---- races ------------------------------------------------------------------------------


def test_the_slower_of_two_writers_applies_its_change_to_the_newer_commit(store: Store) -> None:
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


def test_a_slower_writer_may_find_that_nothing_is_left_to_do(store: Store) -> None:
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


def test_processes_that_commit_at_once_lose_nothing(tmp_path: Path) -> None:
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


def test_threads_that_commit_at_once_lose_nothing_on_object_storage(s3_root: str) -> None:
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


def test_a_commit_whose_confirmation_was_lost_is_not_made_twice(tmp_path: Path) -> None:
    # S3 clients repeat a request whose answer did not arrive, and are then told that it exists.
    def lose_the_answer() -> None:
        raise FileExistsError

    tables.add(Store.open(tmp_path).table(NAME), {"a": 1})
    files = InterruptedFiles(tmp_path, "after create", "_commits/", lose_the_answer)
    tables.add(Store(files).table(NAME), {"b": 2})

    table = Store.open(tmp_path).table(NAME)
    assert sorted(table.read(tables.latest_commit(table))["id"]) == ["a", "b"]


def test_a_pinned_commit_reads_the_same_while_others_are_made(store: Store) -> None:
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
                own = dict.fromkeys(tables.items_of_shard(content, shard), turn)
                files += replace_shard(None, shard, [table.write_rows(tables.frame(own))])
            table.commit(partial(_exactly, files))

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


def test_killed_writers_lose_nothing_that_was_confirmed(tmp_path: Path) -> None:
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


def test_a_writer_may_die_before_any_of_its_file_operations(tmp_path: Path) -> None:
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
        following = table.commit(partial(_and_one_more, file))
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


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_never_read_as_rows(
    store: Store, tmp_path: Path, damage: str
) -> None:
    table = store.table(NAME, key="id")
    commit = tables.put(table, dict.fromkeys(IDS, 1))
    path = _only_file(table, commit)
    _damage(path, DAMAGES[damage])

    with pytest.raises(CorruptFileError) as refused:
        table.read(commit)

    assert str(path) in str(refused.value)
    assert "materialize the asset again" in str(refused.value)


def test_files_that_changed_places_are_noticed(store: Store) -> None:
    table = store.table(NAME)
    first, second = (tables.put(table, {"a": value}) for value in (1, 2))
    one, other = _only_file(table, first), _only_file(table, second)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)

    for commit in (first, second):
        with pytest.raises(CorruptFileError, match="checksum"):
            table.read(commit)


@pytest.mark.parametrize("damage", ["middle byte flipped", "deleted"])
def test_a_damaged_object_is_named_by_its_url(s3_root: str, damage: str) -> None:
    store = Store.open(s3_root)
    table = store.table(NAME)
    commit = tables.put(table, {"a": 1})
    path = f"{NAME}/{commit.files[0].path}"
    left = DAMAGES[damage](store.files.read(path))
    store.files.delete(path)
    if left is not None:
        store.files.write(path, left)

    with pytest.raises(CorruptFileError, match=f"{s3_root}/{path}"):
        table.read(commit)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_commit_with_a_damaged_file_is_not_whole(store: Store, damage: str) -> None:
    table = store.table(NAME)
    commit = tables.put(table, {"a": 1})
    assert table.verify_checksums(commit)
    _damage(_only_file(table, commit), DAMAGES[damage])

    assert not table.verify_checksums(commit)


def test_files_of_every_role_are_part_of_the_whole(store: Store) -> None:
    table = store.table(NAME)
    rows = table.write_rows(tables.frame({"a": 1}))
    beside = table.write_bytes(b"beside", role="index", suffix=".bin")
    commit = table.commit(lambda _: PendingCommit([rows, beside]))
    assert commit is not None
    _damage(Path(store.url) / NAME / beside.path, DAMAGES["last byte flipped"])

    assert not table.verify_checksums(commit)
    table.check_files_exist(commit)


def test_a_shard_is_whole_whatever_happened_to_others(store: Store) -> None:
    table = store.table(NAME, key="id")
    shards = [Shard(0, 2), Shard(1, 2)]
    for shard in shards:
        tables.put_snapshot(table, shard, tables.items_of_shard(dict.fromkeys(IDS, 1), shard))
    commit = tables.latest_commit(table)
    (path, _) = table.local_paths(commit) or []
    _damage(path, DAMAGES["middle byte flipped"])

    assert [table.verify_checksums(commit, shard=shard) for shard in shards] == [False, True]
    assert not table.verify_checksums(commit)


@pytest.mark.parametrize(
    "damage", ["emptied", "one byte left", "last byte missing", "one byte more", "deleted"]
)
def test_a_file_of_the_wrong_size_does_not_count_as_present(store: Store, damage: str) -> None:
    table = store.table(NAME)
    commit = tables.put(table, {"a": 1})
    path = _only_file(table, commit)
    table.check_files_exist(commit)
    _damage(path, DAMAGES[damage])

    with pytest.raises(CorruptFileError, match=f"{path} is missing or truncated.*materialize"):
        table.check_files_exist(commit)


def test_what_a_damaged_file_held_can_be_left_out(store: Store) -> None:
    table = store.table(NAME, key="id")
    tables.add(table, {"a": 1, "b": 1})
    commit = tables.add(table, {"b": 2, "c": 2})
    first, second = table.local_paths(commit) or []
    said: list[str] = []
    assert tables.values(table.read(commit, on_corrupt=said.append)) == {"a": 1, "b": 2, "c": 2}
    assert said == []

    _damage(second, DAMAGES["middle byte flipped"])
    assert tables.values(table.read(commit, on_corrupt=said.append)) == {"a": 1, "b": 1}
    assert [str(second) in line for line in said] == [True]

    _damage(first, DAMAGES["deleted"])
    assert table.read(commit, on_corrupt=said.append).shape == (0, 0)
    with pytest.raises(CorruptFileError, match=str(first)):
        table.read(commit)


@pytest.mark.parametrize("damage", ["emptied", "one byte left", "cut in half", "last byte missing"])
def test_a_damaged_commit_is_named_with_the_mend(store: Store, tmp_path: Path, damage: str) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    tables.put(table, {"a": 2})
    path = _commit_path(tmp_path, 2)
    _damage(path, DAMAGES[damage])

    with pytest.raises(
        CorruptFileError, match=f"{path} .*delete it to go back to the previous version"
    ):
        table.latest()

    path.unlink()
    assert tables.values(table.read(tables.latest_commit(table))) == {"a": 1}


# ---- rows -------------------------------------------------------------------------------


def test_a_later_row_replaces_an_earlier_one_of_its_key(store: Store) -> None:
    table = store.table(NAME, key="id")
    tables.add(table, {"a": 1, "b": 1})
    commit = tables.add(table, {"c": 2, "b": 2})

    rows = table.read(commit)

    assert list(rows.iter_rows()) == [("a", 1), ("c", 2), ("b", 2)]
    assert commit.rows == 4


def test_without_a_key_every_row_counts(store: Store) -> None:
    table = store.table(NAME)
    tables.add(table, {"a": 1})
    commit = tables.add(table, {"a": 1})

    assert list(table.read(commit).iter_rows()) == [("a", 1), ("a", 1)]


def test_a_later_row_replaces_an_earlier_one_within_a_file(store: Store) -> None:
    table = store.table(NAME, key="id")
    file = table.write_rows(pl.DataFrame({"id": ["a", "a"], "value": [1, 2]}))
    commit = table.commit(lambda _: PendingCommit([file]))
    assert commit is not None

    assert list(table.read(commit).iter_rows()) == [("a", 2)]


def test_a_selection_of_columns_still_knows_which_row_is_the_last(store: Store) -> None:
    table = store.table(NAME, key="id")
    tables.add(table, {"a": 1, "b": 1})
    commit = tables.add(table, {"b": 2})

    assert table.read(commit, columns=["value"])["value"].to_list() == [1, 2]


def test_files_of_another_role_are_no_rows(store: Store) -> None:
    table = store.table(NAME)
    beside = table.write_rows(tables.frame({"x": 9}), role="keys")
    assert tables.put(table, {"a": 1}).rows == 1

    commit = table.commit(lambda base: PendingCommit([*(base.files if base else ()), beside]))

    assert commit is not None
    assert tables.values(table.read(commit)) == {"a": 1}
    assert commit.rows == 1
    assert tables.values(table.read_file(commit.files_with_role("keys")[0])) == {"x": 9}


def test_a_commit_without_row_files_reads_as_nothing(store: Store) -> None:
    table = store.table(NAME)
    commit = table.commit(lambda _: PendingCommit([]))
    assert commit is not None

    assert table.read(commit).shape == (0, 0)


@pytest.mark.parametrize("root", ["local", "s3"])
def test_an_uploaded_file_is_checked_like_any_other(
    root: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path / "store") if root == "local" else request.getfixturevalue("s3_root")
    table = Store.open(url).table(NAME)
    local = tmp_path / "index.faiss"
    local.write_bytes(b"some index" * 1000)

    file = table.upload(local, role="index", rows=3)

    assert table.read_bytes(file) == local.read_bytes()
    assert (file.role, file.rows, file.path.rsplit(".", 1)[-1]) == ("index", 3, "faiss")
    commit = table.commit(lambda _: PendingCommit([file]))
    assert commit is not None
    assert table.verify_checksums(commit)
    table.check_files_exist(commit)


def test_vectors_survive_the_way_through_a_file(s3_root: str) -> None:
    rows = pl.DataFrame(
        {"sha256": ["a", "b"], "vector": [[0.1, -2.5e-38], [3.4e38, float("nan")]]},
        schema={"sha256": pl.String, "vector": pl.Array(pl.Float32, 2)},
    )
    table = Store.open(s3_root).table(NAME)

    read = table.read_file(table.write_rows(rows, compression="uncompressed"))

    assert read.schema == rows.schema
    assert read.equals(rows)


# ---- shards -----------------------------------------------------------------------------


def test_completing_a_shard_leaves_the_others_alone(store: Store) -> None:
    table = store.table(NAME, key="id")
    shards = [Shard(index, 3) for index in range(3)]
    content = dict.fromkeys(IDS, 1)
    for shard in shards:
        tables.put_snapshot(table, shard, tables.items_of_shard(content, shard))
    before = tables.latest_commit(table)
    tables.append(table, shards[1], {next(iter(tables.items_of_shard(content, shards[1]))): 5})

    commit = tables.put_snapshot(table, shards[1], {})

    assert commit.files_of_shard(shards[0]) == before.files_of_shard(shards[0])
    assert commit.files_of_shard(shards[2]) == before.files_of_shard(shards[2])
    assert len(commit.files_of_shard(shards[1])) == 1
    assert tables.values(table.read(commit)) == {
        **tables.items_of_shard(content, shards[0]),
        **tables.items_of_shard(content, shards[2]),
    }


def test_a_shard_of_another_number_is_read_across_the_files(store: Store) -> None:
    table = store.table(NAME, key="id")
    content = {item: number for number, item in enumerate(IDS)}
    for index in range(4):
        tables.put_snapshot(table, Shard(index, 4), tables.items_of_shard(content, Shard(index, 4)))
    commit = tables.latest_commit(table)

    for shard in (Shard(index, count) for count in (1, 3, 4, 5) for index in range(count)):
        assert tables.values(table.read(commit, shard=shard)) == tables.items_of_shard(
            content, shard
        )


Step = tuple[str, int, dict[str, int]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "complete", "reshard"]),
        st.integers(0, 4),
        st.dictionaries(st.sampled_from(IDS), st.integers(0, 99)),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
@example(
    steps=[
        *(("complete", index, dict.fromkeys(IDS, 1)) for index in range(4)),
        ("append", 1, dict.fromkeys(IDS, 2)),
        ("reshard", 0, {}),
        ("append", 2, dict.fromkeys(IDS, 3)),
        ("complete", 1, {}),
        ("append", 1, dict.fromkeys(IDS, 4)),
        ("reshard", 2, {}),
        ("append", 4, dict.fromkeys(IDS, 5)),
        ("complete", 0, dict.fromkeys(IDS, 6)),
    ]
)
def test_a_keyed_table_holds_what_a_dictionary_would(steps: list[Step]) -> None:
    """The number of shards changes once every shard of the present number is complete."""
    table = _in_memory()
    content: dict[str, int] = {}
    count = 4
    for step in steps:
        if step[0] == "reshard":
            for index in range(count):
                tables.put_snapshot(
                    table, Shard(index, count), tables.items_of_shard(content, Shard(index, count))
                )
            assert {file.shard_count for file in tables.latest_commit(table).files} == {count}
            assert len(tables.latest_commit(table).files) == count
            count = 3 + step[1] % 3
        else:
            _apply(table, step, count, content)
        _assert_holds(table, content, [count])


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
@example(
    steps=[
        *(("complete", index, dict.fromkeys(IDS, 1)) for index in range(4)),
        ("reshard", 0, {}),
        ("complete", 0, {}),
        ("reshard", 2, {}),
        ("complete", 0, dict.fromkeys(IDS, 2)),
    ]
)
def test_a_keyed_table_holds_what_a_dictionary_would_at_any_change_of_shards(
    steps: list[Step],
) -> None:
    table = _in_memory()
    content: dict[str, int] = {}
    count = 4
    for step in steps:
        if step[0] == "reshard":
            count = 3 + step[1] % 3
        else:
            _apply(table, step, count, content)
        _assert_holds(table, content, [3, 4, 5])


def test_a_removed_row_stays_removed_when_shards_change_twice(store: Store) -> None:
    table = store.table(NAME, key="id")
    content = dict.fromkeys(IDS, 1)
    for index in range(4):
        tables.put_snapshot(table, Shard(index, 4), tables.items_of_shard(content, Shard(index, 4)))
    gone = next(iter(tables.items_of_shard(content, Shard(0, 3))))
    del content[gone]
    tables.put_snapshot(table, Shard(0, 3), tables.items_of_shard(content, Shard(0, 3)))
    assert tables.values(table.read(tables.latest_commit(table))) == content

    other = next(s for s in (Shard(0, 5), Shard(1, 5)) if not tables.items_of_shard({gone: 1}, s))
    tables.put_snapshot(table, other, tables.items_of_shard(content, other))

    assert tables.values(table.read(tables.latest_commit(table))) == content


def test_going_back_to_the_former_number_of_shards_keeps_what_was_written_between(
    store: Store,
) -> None:
    table = store.table(NAME, key="id")
    content = dict.fromkeys(IDS, 1)
    for index in range(4):
        tables.put_snapshot(table, Shard(index, 4), tables.items_of_shard(content, Shard(index, 4)))
    content |= dict.fromkeys(tables.items_of_shard(content, Shard(0, 3)), 2)
    tables.put_snapshot(table, Shard(0, 3), tables.items_of_shard(content, Shard(0, 3)))

    tables.put_snapshot(table, Shard(0, 4), tables.items_of_shard(content, Shard(0, 4)))

    assert tables.values(table.read(tables.latest_commit(table))) == content


def test_a_shard_of_the_former_number_is_without_what_was_removed_under_the_new_one(
    store: Store,
) -> None:
    table = store.table(NAME, key="id")
    content = dict.fromkeys(IDS, 1)
    for index in range(4):
        tables.put_snapshot(table, Shard(index, 4), tables.items_of_shard(content, Shard(index, 4)))
    del content[next(iter(tables.items_of_shard(content, Shard(0, 3))))]
    commit = tables.put_snapshot(table, Shard(0, 3), tables.items_of_shard(content, Shard(0, 3)))

    for shard in (Shard(index, 4) for index in range(4)):
        assert tables.values(table.read(commit, shard=shard)) == tables.items_of_shard(
            content, shard
        )


# ---- helpers ----------------------------------------------------------------------------


def _in_memory() -> Table:
    return Store.open(f"memory://{uuid.uuid4().hex}").table(NAME, key="id")


def _apply(table: Table, step: Step, count: int, content: dict[str, int]) -> None:
    kind, pick, rows = step
    shard = Shard(pick % count, count)
    own = tables.items_of_shard(rows, shard)
    if kind == "append":
        tables.append(table, shard, own)
    else:
        tables.put_snapshot(table, shard, own)
        for item in tables.items_of_shard(content, shard):
            del content[item]
    content.update(own)


def _assert_holds(table: Table, content: dict[str, int], counts: list[int]) -> None:
    commit = table.latest()
    if commit is None:
        assert content == {}
        return
    assert tables.values(table.read(commit)) == content
    for shard in (Shard(index, count) for count in counts for index in range(count)):
        assert tables.values(table.read(commit, shard=shard)) == tables.items_of_shard(
            content, shard
        )


def _exactly(files: Sequence[DataFile], _: Commit | None) -> PendingCommit:
    return PendingCommit(files)


def _and_one_more(file: DataFile, base: Commit | None) -> PendingCommit:
    return PendingCommit([*(base.files if base else ()), file])


def _run_threads(actions: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _only_file(table: Table, commit: Commit) -> Path:
    (path,) = table.local_paths(commit) or []
    return path


def _commit_path(tmp_path: Path, version: int) -> Path:
    return tmp_path / "store" / NAME / "_commits" / f"{version:012d}.json"


def _damage(path: Path, damage: Damage) -> None:
    left = damage(path.read_bytes())
    if left is None:
        path.unlink()
    else:
        path.write_bytes(left)


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
