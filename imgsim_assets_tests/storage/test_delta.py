"""Delta tables beside the store: the same rows, and a change feed of the same changes."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, QueryBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.storage.changes import read_changes
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.delta import export_delta
from imgsim_assets.storage.store import Store

NAME = "matches/pair"
_FEED = {"insert": "added", "update_postimage": "changed", "delete": "removed"}
# The similarity of each pair, by its left and right id.
Pairs = dict[tuple[str, str], float]
pairs = st.dictionaries(
    st.tuples(st.sampled_from("abc'"), st.sampled_from("x`y")), st.sampled_from([0.5, 0.75, 1.0])
)


def _commit(store: Store, matches: Pairs) -> None:
    rows = pl.DataFrame(
        [(left, right, similarity) for (left, right), similarity in sorted(matches.items())],
        schema={"left_id": pl.String, "right_id": pl.String, "similarity": pl.Float64},
        orient="row",
    )
    table = store.table(NAME)
    files = [table.write_rows(rows)]
    table.commit(lambda _: PendingCommit(files))


def _rows(root: Path) -> list[tuple[object, ...]]:
    rows: pl.DataFrame = pl.read_delta(str(root / NAME))
    return rows.sort("left_id", "right_id").rows()


def _feed(root: Path, since: int) -> pl.DataFrame:
    """The change feed after a version of the Delta table, in the words of `read_changes`."""
    feed = pl.DataFrame(DeltaTable(str(root / NAME)).load_cdf(starting_version=since).read_all())
    kinds = feed.filter(pl.col("_change_type").is_in(list(_FEED)))
    labeled = kinds.with_columns(pl.col("_change_type").replace(_FEED).alias("change"))
    return labeled.select("change", "left_id", "right_id", "similarity").sort("left_id", "right_id")


@settings(max_examples=15, deadline=None)
@given(history=st.lists(pairs, min_size=2, max_size=4))
def test_change_feed_carries_the_rows_of_read_changes(
    history: list[Pairs], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("delta")
    store, root = Store.open(folder / "store"), folder / "delta"
    _commit(store, history[0])
    last = export_delta(store, NAME, str(root)).delta_version
    for version, matches in enumerate(history[1:], start=2):
        _commit(store, matches)
        export = export_delta(store, NAME, str(root))

        changes = read_changes(NAME, since=version - 1, store=store).rows
        fed = _feed(root, export.delta_version) if export.delta_version > last else changes.clear()
        assert fed.rows() == changes.rows()
        last = export.delta_version
        assert (export.added, export.changed, export.removed) == tuple(
            int((changes["change"] == kind).sum()) for kind in ("added", "changed", "removed")
        )
        assert _rows(root) == [(*pair, matches[pair]) for pair in sorted(matches)]


def test_first_export_is_an_insert_of_every_row(store: Store, tmp_path: Path) -> None:
    _commit(store, {("a", "x"): 0.5, ("b", "y"): 1.0})

    export = export_delta(store, NAME, str(tmp_path))

    assert (export.delta_version, export.added) == (0, 2)
    assert _feed(tmp_path, 0)["change"].to_list() == ["added", "added"]


def test_columns_that_earlier_versions_lack_are_added(store: Store, tmp_path: Path) -> None:
    _commit(store, {("a", "x"): 0.5})
    export_delta(store, NAME, str(tmp_path))
    table = store.table(NAME)
    rows = pl.DataFrame(
        {"left_id": ["a", "b"], "right_id": "x", "similarity": 0.5, "image": [0, 1]}
    )
    files = [table.write_rows(rows)]
    table.commit(lambda _: PendingCommit(files))

    export = export_delta(store, NAME, str(tmp_path))

    assert (export.added, export.changed, export.removed) == (1, 1, 0)
    assert _rows(tmp_path) == rows.rows()


def test_export_without_a_new_version_commits_nothing(store: Store, tmp_path: Path) -> None:
    _commit(store, {("a", "x"): 0.5})
    first = export_delta(store, NAME, str(tmp_path))

    second = export_delta(store, NAME, str(tmp_path))

    assert (second.delta_version, second.added) == (first.delta_version, 0)


def test_version_that_retention_deleted_is_compared_with_the_delta_table(
    store: Store, tmp_path: Path
) -> None:
    for matches in ({("a", "x"): 0.5}, {("b", "x"): 0.5}, {("a", "x"): 0.75, ("b", "x"): 0.5}):
        _commit(store, matches)
        if len(store.table(NAME).versions()) == 1:
            export_delta(store, NAME, str(tmp_path))
    (Path(store.url) / NAME / "_commits/000000000001.json").unlink()

    export = export_delta(store, NAME, str(tmp_path))

    assert (export.added, export.changed, export.removed) == (1, 1, 0)
    assert _rows(tmp_path) == [("a", "x", 0.75), ("b", "x", 0.5)]


def test_duckdb_reads_the_delta_table_through_its_arrow_reader(
    store: Store, tmp_path: Path
) -> None:
    _commit(store, {("a", "x"): 0.5, ("b", "y"): 1.0})
    export_delta(store, NAME, str(tmp_path))

    builder = QueryBuilder().register("matches", DeltaTable(str(tmp_path / NAME)))
    reader = builder.execute("select * from matches")

    query = "select count(*), max(similarity) from reader"
    with duckdb.connect() as connection:
        assert connection.sql(query).fetchall() == [(2, 1.0)]
    assert reader is not None
