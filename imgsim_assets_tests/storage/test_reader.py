from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.reader import read_table, resolve_version
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import tables

NAME = "matches/products__suppliers"
Engine = Literal["in-memory", "streaming"]

# What a downstream team may do with a LazyFrame.
QUERIES: dict[str, Callable[[pl.LazyFrame], pl.LazyFrame]] = {
    "all": lambda frame: frame,
    "no columns": lambda frame: frame.select(pl.len()),
    "one column": lambda frame: frame.select("value"),
    "columns in another order": lambda frame: frame.select("value", "id"),
    "filter": lambda frame: frame.filter(pl.col("value") > 2),
    "filter on another column than is selected": lambda frame: frame.filter(
        pl.col("id") > "c"
    ).select("value"),
    "filter and count": lambda frame: frame.filter(pl.col("value") > 2).select(pl.len()),
    "filter that leaves nothing": lambda frame: frame.filter(pl.col("value") > 99),
    "group": lambda frame: frame.group_by("value").len().sort("value"),
    "join with itself": lambda frame: frame.join(frame, on="id", how="inner").sort("id"),
    "new column": lambda frame: frame.with_columns(double=pl.col("value") * 2),
    "filter and head": lambda frame: frame.filter(pl.col("value") > 2).head(1),
    "no rows": lambda frame: frame.head(0),
    "slice": lambda frame: frame.slice(1, 2),
    "tail": lambda frame: frame.tail(2),
    "row index": lambda frame: frame.with_row_index(),
    "sorted head": lambda frame: frame.sort("value", "id", descending=True).head(2),
}
HEADS: dict[str, Callable[[pl.LazyFrame], pl.LazyFrame]] = {
    "head": lambda frame: frame.head(2),
    "first": lambda frame: frame.first(),
    "head of a column": lambda frame: frame.select("id").limit(3),
}


@pytest.fixture(params=["plain", "merged", "remote"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """One table of the same rows: read file by file, merged by key, and in a remote store."""
    if request.param == "remote":
        store = Store.open(f"memory://{uuid.uuid4().hex}")
    else:
        store = Store.open(tmp_path / "store")
    if request.param == "merged":
        table = store.table(NAME, key="id")
        tables.add(table, {"a": 1, "b": 2, "c": 0})
        tables.add(table, {"c": 3, "d": 3, "e": 5})
    else:
        table = store.table(NAME)
        tables.add(table, {"a": 1, "b": 2})
        tables.add(table, {"c": 3, "d": 3, "e": 5})
    return store


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_queries_equal_those_on_a_frame_in_memory(
    layout: Store, query: str, engine: Engine
) -> None:
    _assert_answers_alike(layout, QUERIES[query], engine)


@pytest.mark.parametrize("query", HEADS)
def test_head_returns_the_first_rows(layout: Store, query: str) -> None:
    _assert_answers_alike(layout, HEADS[query], "in-memory")


def test_the_schema_is_known_before_collect(layout: Store) -> None:
    assert read_table(NAME, store=layout).collect_schema() == {"id": pl.String, "value": pl.Int64}


def test_a_frame_reads_its_pinned_version_after_later_commits(layout: Store) -> None:
    frame = read_table(NAME, store=layout)
    before = frame.collect()

    tables.put(layout.table(NAME), {"new": 9})

    assert frame.collect().equals(before)
    assert tables.values(read_table(NAME, store=layout).collect()) == {"new": 9}


def test_an_older_version_is_read_by_its_number(layout: Store) -> None:
    first = tables.put(layout.table(NAME), {"first": 1})
    tables.put(layout.table(NAME), {"second": 2})

    frame = read_table(NAME, version=first.version, store=layout)

    assert tables.values(frame.collect()) == {"first": 1}


def test_a_nonexistent_version_raises_naming_existing_ones(store: Store) -> None:
    tables.put(store.table(NAME), {"a": 1})

    with pytest.raises(StoreError, match=rf"{NAME} has no version 2; it has \[1\]"):
        read_table(NAME, version=2, store=store)


def test_an_unknown_table_raises_naming_existing_ones(store: Store) -> None:
    tables.put(store.table("matches/b"), {"a": 1})
    tables.put(store.table("matches/a"), {"a": 1})

    with pytest.raises(StoreError) as refused:
        read_table("matches/c", store=store)

    assert "'matches/c'" in str(refused.value)
    assert store.url in str(refused.value)
    assert "it has matches/a, matches/b" in str(refused.value)


def test_an_empty_store_says_what_to_do_first(store: Store) -> None:
    with pytest.raises(StoreError, match="it is empty: materialize an asset first"):
        read_table(NAME, store=store)


def test_a_malformed_table_name_raises(store: Store) -> None:
    with pytest.raises(StoreError, match="write one such as 'products/images'"):
        read_table("products", store=store)


def test_a_table_without_row_files_raises(store: Store) -> None:
    store.table(NAME).commit(lambda _: PendingCommit([]))

    with pytest.raises(StoreError, match=f"{NAME} version 1 holds no rows"):
        read_table(NAME, store=store)


def test_the_store_is_a_path_a_url_or_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.put(Store.open(tmp_path / "a").table(NAME), {"a": 1})

    assert tables.values(read_table(NAME, store=tmp_path / "a").collect()) == {"a": 1}
    assert tables.values(read_table(NAME, store=f"file://{tmp_path}/a").collect()) == {"a": 1}
    monkeypatch.setenv("IMGSIM_STORE", str(tmp_path / "a"))
    assert tables.values(read_table(NAME).collect()) == {"a": 1}


def test_a_table_on_object_storage_reads_like_a_local_one(s3_root: str) -> None:
    table = Store.open(s3_root).table(NAME, key="id")
    for shard in (Shard(0, 2), Shard(1, 2)):
        tables.put_snapshot(table, shard, tables.items_of_shard({"a": 1, "b": 2, "c": 3}, shard))
    tables.append(table, Shard(0, 2), tables.items_of_shard({"a": 7, "b": 7, "c": 7}, Shard(0, 2)))
    expected = {"a": 1, "b": 2, "c": 3} | tables.items_of_shard(
        dict.fromkeys("abc", 7), Shard(0, 2)
    )

    frame = read_table(NAME, store=s3_root)

    assert tables.values(frame.collect()) == expected
    assert frame.filter(pl.col("id") == "b").select("value").collect().item() == expected["b"]
    with pytest.raises(StoreError, match=rf"{s3_root} has no table 'a/b'; it has {NAME}"):
        read_table("a/b", store=s3_root)


def test_an_unknown_table_is_named_with_those_that_are_most_like_it(store: Store) -> None:
    for name in ("matches/pair", *(f"catalog{number}/items" for number in range(30))):
        tables.add(store.table(name), {"a": 1})

    with pytest.raises(StoreError, match=r"'matches/pairs'; it has matches/pair and 30 more$"):
        read_table("matches/pairs", store=store)
    with pytest.raises(StoreError, match=r"it has catalog0/items, .* and \d+ more$"):
        read_table("zzz/zzz", store=store)


@pytest.mark.parametrize("key", ["id", None])
def test_a_partly_resharded_table_is_read_correctly(store: Store, key: str | None) -> None:
    table = store.table(NAME, key=key)
    content = {f"item-{number}": number for number in range(12)}
    for shard in (Shard(index, 4) for index in range(4)):
        tables.put_snapshot(table, shard, tables.items_of_shard(content, shard))
    content |= dict.fromkeys(tables.items_of_shard(content, Shard(1, 3)), 99)
    del content[next(iter(tables.items_of_shard(content, Shard(1, 3))))]
    tables.put_snapshot(table, Shard(1, 3), tables.items_of_shard(content, Shard(1, 3)))

    assert tables.values(read_table(NAME, store=store).collect()) == content


def test_a_query_reads_only_the_columns_it_needs(store: Store) -> None:
    table = store.table(NAME)
    wide = pl.DataFrame(
        {"id": ["a"], "vector": [[0.5] * 64]},
        schema={"id": pl.String, "vector": pl.Array(pl.Float32, 64)},
    )
    file = table.write_rows(wide)
    table.commit(lambda _: PendingCommit([file]))

    plan = read_table(NAME, store=store).select("id").explain()

    assert "PROJECT 1/2 COLUMNS" in plan


def test_resolve_version_returns_the_table_with_its_committed_key(store: Store) -> None:
    tables.put(store.table(NAME, key="id"), {"a": 1})

    table, commit = resolve_version(store, NAME)

    assert (table.key, commit.version) == ("id", 1)


@pytest.mark.parametrize("damage", ["flipped", "deleted"])
def test_a_damaged_file_of_a_merged_or_remote_table_raises_with_its_path(
    layout: Store, damage: str
) -> None:
    table = layout.table(NAME)
    commit = tables.add(layout.table(NAME, key="id"), {"f": 6})
    frame = read_table(NAME, store=layout)
    path = f"{NAME}/{commit.files[-1].path}"
    _harm(layout, path, damage)

    with pytest.raises(CorruptFileError, match=path):
        frame.collect()
    with pytest.raises(CorruptFileError, match=path):
        table.read(commit)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            "flipped",
            marks=pytest.mark.xfail(
                strict=True,
                reason="Polars maps local files and reads only what a query needs of them, so "
                "that their checksums cannot be looked at",
            ),
        ),
        "cut",
        "deleted",
    ],
)
def test_a_damaged_file_of_a_memory_mapped_table_raises_with_the_fix(
    store: Store, damage: str
) -> None:
    table = store.table(NAME)
    file = table.write_rows(
        pl.DataFrame({"left_id": ["a"] * 200, "similarity": [0.9 + n / 1e4 for n in range(200)]}),
        compression="uncompressed",
    )
    table.commit(lambda _: PendingCommit([file]))
    _harm(store, f"{NAME}/{file.path}", damage)

    with pytest.raises(StoreError, match=f"{file.path}.*materialize the asset again"):
        read_table(NAME, store=store).collect()


def _assert_answers_alike(
    store: Store, query: Callable[[pl.LazyFrame], pl.LazyFrame], engine: Engine
) -> None:
    rows = tables.frame({"a": 1, "b": 2, "c": 3, "d": 3, "e": 5}).lazy()

    answer = query(read_table(NAME, store=store)).collect(engine=engine)

    assert_frame_equal(answer, query(rows).collect())


def _harm(store: Store, path: str, damage: str) -> None:
    data = bytearray(store.files.read(path))
    store.files.delete(path)
    if damage == "flipped":
        data[len(data) // 2] ^= 4
    if damage != "deleted":
        store.files.write(path, bytes(data[:-1] if damage == "cut" else data))


@pytest.mark.parametrize("root", ["local", "remote"])
def test_files_with_older_and_newer_columns_are_one_table(root: str, tmp_path: Path) -> None:
    url = tmp_path / "store" if root == "local" else f"memory://{uuid.uuid4().hex}"
    store = Store.open(url)
    table = store.table(NAME)
    new = table.write_rows(pl.DataFrame({"id": ["a"], "value": [1.5], "since": ["now"]}))
    old = table.write_rows(pl.DataFrame({"id": ["b"], "value": [2]}))
    table.commit(lambda _: PendingCommit([new, old]))

    rows = read_table(NAME, store=store)

    assert rows.collect().rows() == [("a", 1.5, "now"), ("b", 2.0, None)]
    assert rows.select("since").collect()["since"].to_list() == ["now", None]
