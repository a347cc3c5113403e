from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from imgsim_assets.download.ledger.table import PROPERTIES, ledger_frame, ledger_table
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.blobs import PINS
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit, replace_shard
from imgsim_assets.storage.commit_log import commit_path
from imgsim_assets.storage.gc import GcReport, collect_garbage
from imgsim_assets.storage.local_files import TEMPORARY_PREFIX
from imgsim_assets.storage.packs import PACKS, list_packs, read_pack_entries
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import tables
from imgsim_assets_tests.support.damage import flip_bit, flip_bit_in_file, read_blobs
from imgsim_assets_tests.support.file_ages import file_sizes, make_older
from imgsim_assets_tests.support.interrupted import InterruptedFiles

NAME = "products/index"
ENCODER = "0123456789abcdef"
HOUR = 3600.0
WEEK = 168.0
KEEP_ONE = RetentionPolicy(retain_last=1, min_age_hours=1)


@pytest.fixture
def root(store: Store) -> Path:
    """The folder of the store."""
    return Path(store.url)


# ---- damage ------------------------------------------------------------------------------


def _two_old_ledgers(store: Store, root: Path) -> Commit:
    """A ledger with two versions of a file of its own each; returns the older commit."""
    older = _commit_ledger(store, "products", {"a": b"first"})
    _commit_ledger(store, "products", {"a": b"second"})
    make_older(root, 2)
    return older


def test_a_damaged_ledger_of_a_superseded_version_is_named_and_does_not_stop(
    store: Store, root: Path
) -> None:
    older = _two_old_ledgers(store, root)
    flip_bit(store, store.table(older.table), older.files[0])

    report = collect_garbage(store, RetentionPolicy(retain_last=2, min_age_hours=1))

    [message] = report.damaged
    assert "products/images version 1" in message
    assert Path(older.files[0].path).name in message
    assert read_blobs(store).keys() == {hashlib.sha256(b"second").hexdigest()}


@pytest.mark.parametrize("retained", [1, 2])
def test_a_damaged_superseded_commit_is_named_and_deleted_once_it_expires(
    store: Store, root: Path, retained: int
) -> None:
    older = _two_old_ledgers(store, root)
    path = root / commit_path(older.table, 1)
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-9])
    os.utime(path, (status.st_atime, status.st_mtime))

    report = collect_garbage(store, RetentionPolicy(retain_last=retained, min_age_hours=1))

    [message] = report.damaged
    assert str(path) in message
    assert path.exists() == (retained == 2)
    assert collect_garbage(store, KEEP_ONE).commits == retained - 1


@pytest.mark.parametrize("damaged", ["file", "commit"])
def test_a_damaged_newest_ledger_stops_before_anything_is_deleted(
    store: Store, root: Path, damaged: str
) -> None:
    _two_old_ledgers(store, root)
    newest = tables.latest_commit(ledger_table(store, "products"))
    name = commit_path(newest.table, 2) if damaged == "commit" else newest.files[0].path
    flip_bit_in_file(root / name if damaged == "commit" else root / newest.table / name)
    before = file_sizes(root)

    with pytest.raises(CorruptFileError, match=Path(name).name):
        collect_garbage(store, KEEP_ONE)

    assert file_sizes(root) == before


# ---- commits and files ------------------------------------------------------------------


def test_gc_of_an_empty_store_deletes_nothing(store: Store) -> None:
    assert collect_garbage(store, RetentionPolicy()) == GcReport()


def test_old_versions_beyond_retain_last_are_deleted(store: Store, root: Path) -> None:
    table = store.table(NAME)
    for value in range(6):
        tables.put(table, {"a": value})
    make_older(root, 2)

    report = collect_garbage(store, RetentionPolicy(retain_last=2, min_age_hours=1))

    assert table.versions() == [5, 6]
    assert [tables.values(table.read(table.at(version))) for version in (5, 6)] == [
        {"a": 4},
        {"a": 5},
    ]
    assert (report.commits, report.files) == (4, 4)
    assert len(list((root / NAME / "data").iterdir())) == 2
    assert tables.put(table, {"a": 6}).version == 7


def test_young_versions_are_kept_beyond_retain_last(store: Store, root: Path) -> None:
    table = store.table(NAME)
    tables.put(table, {"old": 1})
    make_older(root, 2)
    for value in range(4):
        tables.put(table, {"a": value})

    collect_garbage(store, KEEP_ONE)

    assert table.versions() == [2, 3, 4, 5]


def test_the_only_version_is_kept_at_any_age(store: Store, root: Path) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    make_older(root, 10 * 365 * 24)

    assert collect_garbage(store, KEEP_ONE) == GcReport(tables=[NAME])
    assert tables.values(table.read(tables.latest_commit(table))) == {"a": 1}


def test_a_file_that_a_later_version_still_lists_is_kept(store: Store, root: Path) -> None:
    table = store.table(NAME, key="id")
    tables.add(table, {"a": 1})
    for value in range(3):
        tables.add(table, {"b": value})
    make_older(root, 2)

    report = collect_garbage(store, KEEP_ONE)

    assert (report.commits, report.files) == (3, 0)
    assert tables.values(table.read(tables.latest_commit(table))) == {"a": 1, "b": 2}


def test_old_files_that_no_commit_lists_are_deleted(store: Store, root: Path) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    table.write_bytes(b"a killed run's", role="rows", suffix=".parquet")
    make_older(root, 2)
    young = table.write_bytes(b"a present run's", role="rows", suffix=".parquet")

    report = collect_garbage(store, KEEP_ONE)

    assert report.files == 1
    assert report.bytes == len(b"a killed run's")
    assert _file_names(root / NAME / "data") == {
        Path(file.path).name for file in (young, *tables.latest_commit(table).files)
    }


def test_old_temporary_files_are_deleted(store: Store, root: Path) -> None:
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    _commit_ledger(store, "products", {"x": b"image"})
    folders = [root / NAME, root / NAME / "data", root / NAME / "_commits"]
    folders.append(root / PACKS)
    for folder in folders:
        (folder / f"{TEMPORARY_PREFIX}old").write_bytes(b"12345")
    make_older(root, 2)
    for folder in folders:
        (folder / f"{TEMPORARY_PREFIX}young").write_bytes(b"12345")

    report = collect_garbage(store, KEEP_ONE)

    left = {path.name for folder in folders for path in folder.glob(f"{TEMPORARY_PREFIX}*")}
    assert left == {f"{TEMPORARY_PREFIX}young"}
    assert report.files == len(folders)
    assert report.bytes == 5 * len(folders)


def test_old_robots_txt_files_are_deleted(store: Store, root: Path) -> None:
    store.files.write("_robots/old.json", b"{}")
    make_older(root, 2)
    store.files.write("_robots/young.json", b"{}")

    assert collect_garbage(store, KEEP_ONE).files == 1

    assert [entry.name for entry in store.files.entries("_robots")] == ["young.json"]


def test_old_files_of_a_table_without_commits_are_deleted(store: Store, root: Path) -> None:
    store.table("products/images").write_rows(tables.frame({"a": 1}))
    tables.put(store.table(NAME), {"a": 1})
    make_older(root, 2)

    assert collect_garbage(store, KEEP_ONE).files == 1
    assert tables.values(store.table(NAME).read(tables.latest_commit(store.table(NAME)))) == {
        "a": 1
    }


def test_clocks_of_writers_that_run_ahead_delete_nothing(store: Store, root: Path) -> None:
    table = store.table(NAME)
    for value in range(3):
        tables.put(table, {"a": value})
    orphan = table.write_bytes(b"x", role="rows", suffix=".bin")
    _put_blob(store, b"unreferenced")
    before = file_sizes(root)
    make_older(root, -48)

    assert collect_garbage(store, KEEP_ONE) == GcReport(tables=[NAME])
    assert file_sizes(root).keys() == before.keys()
    assert Path(orphan.path).name in _file_names(root / NAME / "data")

    make_older(root, 48 + 2)
    assert (collect_garbage(store, KEEP_ONE).commits, table.versions()) == (2, [3])


def test_a_clock_that_was_set_back_deletes_nothing(store: Store, root: Path) -> None:
    for value in range(3):
        tables.put(store.table(NAME), {"a": value})
    before = file_sizes(root)

    collect_garbage(store, KEEP_ONE, now=time.time() - 48 * HOUR)

    assert file_sizes(root) == before


def test_now_can_be_passed(store: Store) -> None:
    for value in range(3):
        tables.put(store.table(NAME), {"a": value})

    assert (
        collect_garbage(
            store, RetentionPolicy(retain_last=1), now=time.time() + (WEEK - 1) * HOUR
        ).commits
        == 0
    )
    assert (
        collect_garbage(
            store, RetentionPolicy(retain_last=1), now=time.time() + (WEEK + 1) * HOUR
        ).commits
        == 2
    )


def test_repeated_gc_reaches_a_fixed_point(store: Store, root: Path) -> None:
    _store_garbage(store, root)
    first = collect_garbage(store, KEEP_ONE)
    second = collect_garbage(
        store, KEEP_ONE
    )  # takes the version of the vectors that the first one replaced
    after = file_sizes(root)

    third = collect_garbage(store, KEEP_ONE)

    assert third == GcReport(tables=first.tables)
    assert (second.blobs, second.vectors) == (0, 0)
    assert file_sizes(root) == after


def test_a_dry_run_deletes_nothing_and_reports_what_would_be(store: Store, root: Path) -> None:
    _store_garbage(store, root)
    before = file_sizes(root)

    planned = collect_garbage(store, KEEP_ONE, dry_run=True)

    assert file_sizes(root) == before
    report = collect_garbage(store, KEEP_ONE)
    assert planned == report
    assert min(report.commits, report.files, report.blobs, report.vectors, report.bytes) > 0


def test_gc_on_object_storage(s3_root: str) -> None:
    store = Store.open(s3_root)
    table = store.table(NAME)
    for value in range(3):
        tables.put(table, {"a": value})
    _commit_ledger(store, "products", {"a": b"kept"})
    unreferenced = _put_blob(store, b"unreferenced")

    assert collect_garbage(store, KEEP_ONE) == GcReport(tables=["products/images", NAME])
    report = collect_garbage(store, KEEP_ONE, now=time.time() + 2 * HOUR)

    assert (report.commits, report.files, report.blobs) == (2, 2, 1)
    assert table.versions() == [3]
    assert tables.values(table.read(tables.latest_commit(table))) == {"a": 2}
    assert unreferenced not in read_blobs(store)
    assert store.blobs.get(_sha256(b"kept")) == b"kept"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"retain_last": 0}, "retain_last"),
        ({"min_age_hours": 0.5}, "min_age_hours"),
        ({"min_age": 5}, "did you mean 'min_age_hours'"),
    ],
)
def test_invalid_policies_raise(values: Mapping[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RetentionPolicy.model_validate(values)


# ---- images -----------------------------------------------------------------------------


def test_old_unreferenced_images_are_deleted(store: Store, root: Path) -> None:
    _commit_ledger(store, "products", {"a": b"kept", "b": b"dropped"})
    _commit_ledger(store, "suppliers", {"x": b"kept too"})
    _commit_ledger(store, "products", {"a": b"kept"})
    make_older(root, 2)
    young = _put_blob(store, b"a present run's")

    report = collect_garbage(store, KEEP_ONE)

    assert (report.blobs, report.files) == (1, 1)
    assert report.bytes > len(b"dropped")
    assert _sha256(b"dropped") not in read_blobs(store)
    for data in (b"kept", b"kept too"):
        assert store.blobs.get(_sha256(data)) == data
    assert store.blobs.get(young) == b"a present run's"


def test_images_of_kept_older_versions_are_kept(store: Store, root: Path) -> None:
    _commit_ledger(store, "products", {"a": b"first"})
    _commit_ledger(store, "products", {"a": b"second"})
    _commit_ledger(store, "products", {"a": b"third"})
    make_older(root, 2)

    collect_garbage(store, RetentionPolicy(retain_last=2, min_age_hours=1))

    assert read_blobs(store).keys() == {_sha256(b"second"), _sha256(b"third")}


def test_items_without_an_image_do_not_stop_gc(store: Store, root: Path) -> None:
    table = ledger_table(store, "products")
    rows = table.write_rows(ledger_frame([{"id": "a", "url": "https://x/a", "status": "http_404"}]))
    table.commit(partial(_pending_ledger, rows))
    _put_blob(store, b"dropped")
    make_older(root, 2)

    assert collect_garbage(store, KEEP_ONE).blobs == 1


@pytest.mark.parametrize("dry_run", [False, True])
def test_an_empty_ledger_stops_gc(store: Store, root: Path, dry_run: bool) -> None:
    _store_garbage(store, root)
    _commit_ledger(store, "suppliers", {"x": b"image"})
    _commit_ledger(store, "suppliers", {})
    make_older(root, 1000)
    before = file_sizes(root)

    with pytest.raises(StoreError) as raised:
        collect_garbage(store, KEEP_ONE, dry_run=dry_run)

    assert file_sizes(root) == before
    assert "table suppliers/images is empty" in str(raised.value)
    assert "nothing was deleted" in str(raised.value)
    assert f"delete {root}/suppliers/images" in str(raised.value)


@pytest.mark.parametrize("damage", ["flipped", "deleted", "emptied"])
def test_an_unreadable_ledger_stops_gc(store: Store, root: Path, damage: str) -> None:
    _store_garbage(store, root)
    commit = _commit_ledger(store, "suppliers", {"x": b"image"})
    path = root / "suppliers" / "images" / commit.files[0].path
    data = bytearray(path.read_bytes())
    if damage == "deleted":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data) if damage == "flipped" else b"")
    make_older(root, 1000)
    before = file_sizes(root)

    with pytest.raises(StoreError, match=str(path)):
        collect_garbage(store, KEEP_ONE)

    assert file_sizes(root) == before


def test_young_unreferenced_images_are_kept(store: Store, root: Path) -> None:
    sha256 = _put_blob(store, b"image")
    make_older(root, KEEP_ONE.min_age_hours - 20 / HOUR)
    _put_blob(Store.open(root), b"image")

    collect_garbage(store, KEEP_ONE, now=time.time() + 60)

    assert store.blobs.get(sha256) == b"image"


# ---- vectors ----------------------------------------------------------------------------


def test_vectors_of_unreferenced_images_are_deleted(store: Store, root: Path) -> None:
    _commit_ledger(store, "products", {"a": b"kept", "b": b"dropped", "c": b"dropped too"})
    _commit_ledger(store, "suppliers", {"x": b"borrowed"})
    _append_vectors(store, "products", [b"kept", b"dropped"])
    _append_vectors(store, "products", [b"dropped too", b"borrowed"])
    before = VectorTable(store, "products", ENCODER).read(map(_sha256, (b"kept", b"borrowed")))
    _commit_ledger(store, "products", {"a": b"kept"})
    make_older(root, 2)

    report = collect_garbage(store, KEEP_ONE)

    vectors = VectorTable(store, "products", ENCODER)
    assert report.vectors == 2
    assert vectors.keys() == {_sha256(b"kept"), _sha256(b"borrowed")}
    after = vectors.read(vectors.keys())
    assert list(after.sha256) == list(before.sha256)
    assert np.array_equal(after.vectors, before.vectors)
    assert np.array_equal(after.norms, before.norms)


def test_young_vectors_are_kept(store: Store, root: Path) -> None:
    _commit_ledger(store, "products", {"a": b"kept"})
    make_older(root, 2)
    _append_vectors(store, "products", [b"of a run that is about to say which item has it"])

    assert collect_garbage(store, KEEP_ONE).vectors == 0
    assert len(VectorTable(store, "products", ENCODER).keys()) == 1


@pytest.mark.parametrize("role", ["rows", "keys"])
def test_damaged_vector_files_are_skipped(store: Store, root: Path, role: str) -> None:
    _commit_ledger(store, "products", {"a": b"kept", "b": b"dropped"})
    _append_vectors(store, "products", [b"kept", b"dropped"])
    _append_vectors(store, "products", [b"dropped too"])
    _commit_ledger(store, "products", {"a": b"kept"})
    table = VectorTable(store, "products", ENCODER).table
    damaged = tables.latest_commit(table).files_with_role(role)[0]
    flip_bit(store, table, damaged)
    make_older(root, 2)

    planned = collect_garbage(store, KEEP_ONE, dry_run=True)
    report = collect_garbage(store, KEEP_ONE)

    assert planned == report
    assert (report.blobs, report.vectors) == (1, {"rows": 1, "keys": 2}[role])
    assert damaged in tables.latest_commit(table).files


def test_files_whose_vectors_are_all_referenced_are_not_rewritten(store: Store, root: Path) -> None:
    _commit_ledger(store, "products", {"a": b"kept"})
    _append_vectors(store, "products", [b"kept"])
    make_older(root, 2)

    assert collect_garbage(store, KEEP_ONE).vectors == 0
    assert VectorTable(store, "products", ENCODER).table.versions() == [1]


def test_vectors_can_be_added_after_gc(store: Store, root: Path) -> None:
    _commit_ledger(store, "products", {"a": b"one", "b": b"two"})
    _append_vectors(store, "products", [b"one", b"deleted"])
    make_older(root, 2)
    collect_garbage(store, KEEP_ONE)

    _append_vectors(store, "products", [b"two"])

    assert VectorTable(store, "products", ENCODER).keys() == {_sha256(b"one"), _sha256(b"two")}


# ---- concurrency ------------------------------------------------------------------------


def test_a_version_committed_during_gc_is_kept(store: Store, root: Path) -> None:
    _commit_ledger(store, "products", {"a": b"kept"})
    table = store.table(NAME)
    tables.put(table, {"a": 1})
    interrupted = InterruptedFiles(
        root, "after read", "products/images/data/", lambda: tables.put(table, {"a": 2})
    )

    collect_garbage(Store(interrupted), KEEP_ONE)

    assert table.versions() == [1, 2]
    assert tables.values(table.read(tables.latest_commit(table))) == {"a": 2}


def test_two_concurrent_gcs_succeed(store: Store, root: Path) -> None:
    table = store.table(NAME)
    for value in range(4):
        tables.put(table, {"a": value})
    make_older(root, 2)
    interrupted = InterruptedFiles(
        root, "after read", "_commits/", lambda: collect_garbage(store, KEEP_ONE)
    )

    collect_garbage(Store(interrupted), KEEP_ONE)

    assert table.versions() == [4]


def test_a_table_with_an_interrupted_first_commit_does_not_stop_gc(
    store: Store, root: Path
) -> None:
    table = store.table(NAME)
    for value in range(2):
        tables.put(table, {"a": value})
    commits = root / "products" / "images" / "_commits"
    commits.mkdir(parents=True)
    (commits / f"{TEMPORARY_PREFIX}0123").write_bytes(b"{")
    make_older(root, 2)

    assert collect_garbage(store, KEEP_ONE).commits == 1
    assert table.versions() == [2]


def test_concurrent_writers_lose_nothing_to_gc(store: Store, root: Path) -> None:
    _commit_ledger(store, "products", {f"{number}": b"%d" % number for number in range(20)})
    table = store.table(NAME, key="id")
    over = threading.Event()
    acked: list[str] = []

    def write() -> None:
        while not over.is_set():
            row = f"row-{len(acked)}"
            tables.add(table, {row: len(acked)})
            acked.append(row)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(40):
            collect_garbage(Store.open(root), KEEP_ONE)
    finally:
        over.set()
        writer.join()

    assert table.versions() == list(range(1, len(acked) + 1))
    assert sorted(table.read(tables.latest_commit(table))["id"]) == sorted(acked)


Step = tuple[str, int]
TABLES = ["products/images", "suppliers/images", "products/index"]


@settings(max_examples=25, deadline=None)
@example(keep=1, steps=[("commit", 0)] * 5 + [("age", 8), ("collect", 0), ("commit", 0)])
@given(
    keep=st.integers(1, 3),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["commit", "commit", "orphan", "age", "collect"]), st.integers(0, 11)
        ),
        max_size=16,
    ),
)
def test_gc_deletes_exactly_what_is_unreferenced_and_old(
    tmp_path_factory: pytest.TempPathFactory, keep: int, steps: list[Step]
) -> None:
    root = tmp_path_factory.mktemp("store")
    store = Store.open(root)
    policy = RetentionPolicy(retain_last=keep, min_age_hours=2)
    for number, name in enumerate(TABLES):
        _commit_version(store, name, number)
    end = [("collect", 0), ("age", 9), ("collect", 0)]
    for written, (kind, number) in enumerate([*steps, *end]):
        if kind == "age":
            make_older(root, number / 4)
            store = Store.open(root)  # a new index has the new ages of the packs
        elif kind == "orphan":
            _put_blob(store, f"blob {written}".encode())
            store.table(TABLES[number % 3]).write_bytes(b"orphan", role="rows", suffix=".bin")
        elif kind == "commit":
            _commit_version(store, TABLES[number % 3], written)
        else:
            _collect_and_check(store, root, policy)


def _commit_version(store: Store, name: str, number: int) -> None:
    if name.endswith("/images"):
        data = f"image {number % 5}".encode()
        _commit_ledger(store, name.split("/")[0], {"item": data, f"item {number}": data})
    else:
        tables.put(store.table(name), {"a": number})


def _collect_and_check(store: Store, root: Path, policy: RetentionPolicy) -> None:
    before = file_sizes(root)
    older_than = time.time() - policy.min_age_hours * HOUR
    young = {path for path in before if (root / path).stat().st_mtime > older_than + 60}
    commits = {
        name: {version: store.table(name).at(version) for version in store.table(name).versions()}
        for name in store.table_names()
    }
    planned = collect_garbage(store, policy, dry_run=True)
    assert file_sizes(root) == before

    report = collect_garbage(store, policy)

    after = file_sizes(root)
    deleted = before.keys() - after.keys()
    assert report == planned
    assert not deleted & young
    packs = {path for path in deleted if PACKS in path}
    written = sum(after[path] for path in after.keys() - before.keys())
    assert report.commits + report.files == len(deleted - packs)
    assert report.bytes == sum(before[p] for p in deleted if "_commits" not in p) - written
    listed: set[str] = set()
    referenced: set[str] = set()
    for name, commits_before in commits.items():
        kept = store.table(name).versions()
        assert kept[-policy.retain_last :] == sorted(commits_before)[-policy.retain_last :]
        for commit in (commits_before[version] for version in kept):
            store.table(name, key=commit.key).read(commit)
            listed.update(f"{name}/{file.path}" for file in commit.files)
            if name.endswith("/images"):
                for sha256 in store.table(name).read(commit)["sha256"]:
                    Store.open(root).blobs.get(sha256)
                    referenced.add(sha256)
    unlisted = {path for path in after if "/data/" in path} - listed
    assert all((root / path).stat().st_mtime > older_than - 60 for path in unlisted)
    _check_packs(store, referenced, older_than)


def _check_packs(store: Store, referenced: set[str], older_than: float) -> None:
    """No old, unpinned pack is sparse."""
    pins = {entry.name: entry.modified for entry in store.files.entries(PINS)}
    for pack in list_packs(store.files):
        if max(pack.modified, pins.get(pack.name, 0.0)) < older_than - 60:
            entries = read_pack_entries(store.files, pack)
            names = [entries.sha256[at : at + 1].tobytes().hex() for at in range(len(entries))]
            is_referenced = [name in referenced for name in names]
            assert 2 * entries.length[is_referenced].sum() > entries.length.sum()


def _put_blob(store: Store, data: bytes) -> str:
    """Store an image that no commit refers to yet."""
    sha256 = store.blobs.put(data)
    store.blobs.flush()
    return sha256


def _file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _store_garbage(store: Store, root: Path) -> None:
    """A store with old garbage of every kind."""
    _commit_ledger(store, "products", {"a": b"kept", "b": b"dropped"})
    _append_vectors(store, "products", [b"kept", b"dropped"])
    _commit_ledger(store, "products", {"a": b"kept"})
    store.table(NAME).write_bytes(b"orphan", role="index", suffix=".faiss")
    tables.put(store.table(NAME), {"a": 1})
    tables.put(store.table(NAME), {"a": 2})
    make_older(root, 2)


def _commit_ledger(store: Store, name: str, images: Mapping[str, bytes]) -> Commit:
    """Commit a ledger with exactly these images."""
    items = [
        {"id": item, "url": f"https://x/{item}", "status": "ok", "sha256": store.blobs.put(data)}
        for item, data in images.items()
    ]
    store.blobs.flush()
    table = ledger_table(store, name)
    commit = table.commit(partial(_pending_ledger, table.write_rows(ledger_frame(items))))
    assert commit is not None
    return commit


def _pending_ledger(rows: DataFile, base: Commit | None) -> PendingCommit:
    return PendingCommit(replace_shard(base, Shard(0, 1), [rows]), properties=PROPERTIES)


def _append_vectors(store: Store, name: str, images: Iterable[bytes]) -> None:
    hashes = [_sha256(data) for data in images]
    vectors = np.random.default_rng(len(hashes)).standard_normal((len(hashes), 4))
    VectorTable(store, name, ENCODER).append(
        VectorRows(hashes, vectors.astype(np.float32), np.ones(len(hashes), np.float32))
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
