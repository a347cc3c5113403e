from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.changes import read_changes
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store

NAME = "matches/pair"
Pairs = dict[tuple[str, str], float]

_ids = st.sampled_from("abc")
_versions = st.lists(
    st.dictionaries(st.tuples(_ids, _ids), st.sampled_from([0.8, 0.9, 1.0])), min_size=1, max_size=4
)


def _commit(store: Store, pairs: Pairs, **more: object) -> int:
    rows = [{"left_id": left, "right_id": right, "similarity": value} | more
            for (left, right), value in pairs.items()]  # fmt: skip
    schema = {"left_id": pl.String, "right_id": pl.String, "similarity": pl.Float64}
    frame = pl.DataFrame(rows, schema=None if more else schema)
    table = store.table(NAME)
    commit = table.commit(lambda _: PendingCommit([table.write_rows(frame)]))
    assert commit is not None
    return commit.version


@given(_versions)
@settings(max_examples=30, deadline=None)
def test_applying_the_changes_to_a_version_gives_the_newest(versions: list[Pairs]) -> None:
    store = Store.open(f"memory://{id(versions)}")
    numbers = [0, *(_commit(store, pairs) for pairs in versions)]
    for since, before in zip(numbers, [{}, *versions], strict=True):
        changes = read_changes(NAME, since=since, store=store)

        after = dict(before)
        for change, left, right, similarity in changes.rows.rows():
            assert ((left, right) in before) == (change != "added")
            if change == "removed":
                assert after.pop((left, right)) == similarity
            else:
                assert after.get((left, right)) != similarity
                after[left, right] = similarity
        assert after == versions[-1]
        assert (changes.since, changes.until) == (since, numbers[-1])
        assert changes.rows.rows() == sorted(changes.rows.rows(), key=lambda row: row[1:3])


def test_changes_of_a_keyed_table_are_matched_by_key(store: Store) -> None:
    table = store.table("shop/images", key="id")
    for rows in ([("a", "ok"), ("b", "dns_error")], [("b", "ok"), ("c", "ok")]):
        frame = pl.DataFrame(rows, schema=["id", "status"], orient="row")
        draft = PendingCommit([table.write_rows(frame)])
        table.commit(lambda _, draft=draft: draft)  # type: ignore[misc]

    changes = read_changes("shop/images", since=1, store=store)

    assert changes.rows.rows() == [
        ("removed", "a", "ok"),
        ("changed", "b", "ok"),
        ("added", "c", "ok"),
    ]


def test_a_new_column_counts_as_a_change_of_every_row(store: Store) -> None:
    _commit(store, {("a", "b"): 0.9, ("a", "c"): 0.8})
    _commit(store, {("a", "b"): 0.9}, rank=1)

    changes = read_changes(NAME, since=1, store=store)

    assert changes.rows.rows() == [("changed", "a", "b", 0.9, 1), ("removed", "a", "c", 0.8, None)]


def test_until_selects_an_older_version(store: Store) -> None:
    for pairs in ({("a", "b"): 0.9}, {("a", "c"): 0.9}, {}):
        _commit(store, pairs)

    changes = read_changes(NAME, since=1, until=2, store=store)

    assert changes.rows["change"].to_list() == ["removed", "added"]
    assert changes.until == 2


def test_nonexistent_versions_raise(store: Store) -> None:
    _commit(store, {("a", "b"): 0.9})
    with pytest.raises(StoreError, match=f"{NAME} is at version 1, so there is none after 3"):
        read_changes(NAME, since=3, store=store)
    with pytest.raises(StoreError, match="has no table 'matches/other'"):
        read_changes("matches/other", since=0, store=store)
    _commit(store, {})
    (Path(store.url) / NAME / "_commits/000000000001.json").unlink()
    with pytest.raises(StoreError, match=r"has no version 1; it has \[2\]"):
        read_changes(NAME, since=1, store=store)


def test_changes_of_a_table_without_a_key_raise(store: Store) -> None:
    table = store.table("shop/rejects")
    table.commit(lambda _: PendingCommit([table.write_rows(pl.DataFrame({"line": [1]}))]))

    with pytest.raises(StoreError, match="table shop/rejects has no key"):
        read_changes("shop/rejects", since=0, store=store)
