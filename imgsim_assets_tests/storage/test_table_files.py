from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support import tables
from imgsim_assets_tests.support.damage import DAMAGES, damage_file

NAME = "products/images"
IDS = [f"item-{number}" for number in range(14)]


def _single_path(table: Table, commit: Commit) -> Path:
    (path,) = table.local_paths(commit) or []
    return path


def test_an_error_in_a_chunk_fails_the_write(store: Store) -> None:
    def chunks() -> Iterator[pl.DataFrame]:
        yield tables.frame({"a": 1})
        raise CorruptFileError("the second chunk")

    with pytest.raises(CorruptFileError, match="the second chunk"):
        store.table(NAME, key="id").write_sorted_chunks(chunks())


def test_bytes_of_a_file_do_not_depend_on_the_chunks_of_a_frame(store: Store) -> None:
    table = store.table(NAME, key="id")
    rows = pl.DataFrame({"id": [f"{n * n:09}" for n in range(5000)], "value": "a"})
    in_chunks = pl.concat([rows[:5], rows[5:]], rechunk=False)

    assert in_chunks.n_chunks() == 2
    assert table.write_rows(in_chunks).sha256 == table.write_rows(rows).sha256


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_raises_with_its_path(store: Store, tmp_path: Path, damage: str) -> None:
    table = store.table(NAME, key="id")
    commit = tables.put(table, dict.fromkeys(IDS, 1))
    path = _single_path(table, commit)
    damage_file(path, DAMAGES[damage])

    with pytest.raises(CorruptFileError) as raised:
        table.read(commit)

    assert str(path) in str(raised.value)
    assert "materialize the asset again" in str(raised.value)


def test_swapped_files_are_detected(store: Store) -> None:
    table = store.table(NAME)
    first, second = (tables.put(table, {"a": value}) for value in (1, 2))
    one, other = _single_path(table, first), _single_path(table, second)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)

    for commit in (first, second):
        with pytest.raises(CorruptFileError, match="checksum"):
            table.read(commit)


@pytest.mark.parametrize("damage", ["middle byte flipped", "deleted"])
def test_a_damaged_object_raises_with_its_url(s3_root: str, damage: str) -> None:
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


@pytest.mark.parametrize("small", [0, 2**20], ids=["in parts", "at once"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_checksums_detects_a_damaged_file(
    store: Store, damage: str, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgsim_assets.storage.table_files._SMALL_FILE", small)
    table = store.table(NAME)
    commit = tables.put(table, {"a": 1})
    assert table.verify_checksums(commit)
    damage_file(_single_path(table, commit), DAMAGES[damage])

    assert not table.verify_checksums(commit)


def test_verify_checksums_covers_every_role(store: Store) -> None:
    table = store.table(NAME)
    rows = table.write_rows(tables.frame({"a": 1}))
    other_file = table.write_bytes(b"beside", role="index", suffix=".bin")
    commit = table.commit(lambda _: PendingCommit([rows, other_file]))
    assert commit is not None
    damage_file(Path(store.url) / NAME / other_file.path, DAMAGES["last byte flipped"])

    assert not table.verify_checksums(commit)
    table.check_files_exist(commit)


def test_verify_checksums_of_a_shard_ignores_other_shards(store: Store) -> None:
    table = store.table(NAME, key="id")
    shards = [Shard(0, 2), Shard(1, 2)]
    for shard in shards:
        tables.put_snapshot(table, shard, tables.items_of_shard(dict.fromkeys(IDS, 1), shard))
    commit = tables.latest_commit(table)
    (path, _) = table.local_paths(commit) or []
    damage_file(path, DAMAGES["middle byte flipped"])

    assert [table.verify_checksums(commit, shard=shard) for shard in shards] == [False, True]
    assert not table.verify_checksums(commit)


@pytest.mark.parametrize(
    "damage", ["emptied", "one byte left", "last byte missing", "one byte more", "deleted"]
)
def test_check_files_exist_detects_a_wrong_size(store: Store, damage: str) -> None:
    table = store.table(NAME)
    commit = tables.put(table, {"a": 1})
    path = _single_path(table, commit)
    for of_all_roles in (False, True):
        table.check_files_exist(commit, of_all_roles=of_all_roles)
    damage_file(path, DAMAGES[damage])

    for of_all_roles in (False, True):
        with pytest.raises(CorruptFileError, match=f"{path} is missing or truncated.*materialize"):
            table.check_files_exist(commit, of_all_roles=of_all_roles)


@pytest.mark.parametrize("root", ["local", "s3"])
def test_an_uploaded_file_is_verified_on_read(
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


def test_vectors_round_trip_through_a_file(s3_root: str) -> None:
    rows = pl.DataFrame(
        {"sha256": ["a", "b"], "vector": [[0.1, -2.5e-38], [3.4e38, float("nan")]]},
        schema={"sha256": pl.String, "vector": pl.Array(pl.Float32, 2)},
    )
    table = Store.open(s3_root).table(NAME)

    read = table.read_file(table.write_rows(rows, compression="uncompressed"))

    assert read.schema == rows.schema
    assert read.equals(rows)
