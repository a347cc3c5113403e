"""Rows in blocks: those of a scratch file are the same as those in memory."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.storage import row_blocks, sorted_rows, stored_rows
from imgsim_assets.storage.row_blocks import RowBlocks, ids_ascend, item_count, matched_blocks

_SCHEMA = pl.Schema({"id": pl.String, "image": pl.Int32, "sha256": pl.String})
_ROWS = st.lists(
    st.tuples(
        st.sampled_from([f"i{n}" for n in range(12)]), st.integers(0, 2), st.text("ab", max_size=3)
    ),
    max_size=40,
)


def _frame(rows: list[tuple[str, int, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


@pytest.fixture(params=["memory", "scratch"], autouse=True)
def _storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "scratch":
        monkeypatch.setattr(stored_rows, "rows_in_memory", lambda: 0)
        monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 5)
        monkeypatch.setattr(sorted_rows, "_ROWS_PER_SAMPLE", 2)


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(_ROWS, max_size=4), data=st.data())
def test_rows_are_read_as_from_one_frame(
    parts: list[list[tuple[str, int, str]]], data: st.DataObject
) -> None:
    frames = [_frame(part) for part in parts]
    expected = pl.concat([_frame([]), *frames])
    rows = RowBlocks.collect(frames, _SCHEMA)

    assert len(rows) == expected.height
    assert rows.schema == _SCHEMA
    assert rows.all().equals(expected)
    assert pl.concat([block for _, block in rows.blocks()]).equals(expected)
    start, stop = data.draw(st.integers(0, 50)), data.draw(st.integers(0, 50))
    assert rows.read(start, stop, ["image"]).equals(
        expected.select("image")[start : max(start, stop)]
    )
    if expected.height:
        chosen = data.draw(st.lists(st.integers(0, expected.height - 1), max_size=30))
        numbers = np.array(chosen, dtype=np.int64)
        assert rows.gather(numbers).equals(expected.select(pl.all().gather(numbers)))
    assert pickle.loads(pickle.dumps(rows)).all().equals(expected)
    assert (
        rows.map(lambda block: block.select("id"), pl.Schema({"id": pl.String}))
        .all()
        .equals(expected.select("id"))
    )


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(_ROWS, max_size=5))
def test_sorted_rows_have_the_last_row_of_each_key(parts: list[list[tuple[str, int, str]]]) -> None:
    frames = [_frame(part) for part in parts]
    key = ["id", "image"]

    rows = sorted_rows.sorted_rows(frames, _SCHEMA, key).all()

    every = pl.concat([_frame([]), *frames])
    assert rows.equals(every.unique(key, keep="last", maintain_order=True).sort(key))


def test_rows_are_equal_however_they_are_stored() -> None:
    frame = _frame([(f"i{n}", 0, "a") for n in range(20)])
    others = frame.with_columns(
        pl.when(pl.col("id") == "i17").then(1).otherwise("image").alias("image").cast(pl.Int32)
    )
    rows = RowBlocks.collect([frame], _SCHEMA)

    assert rows.equals(RowBlocks.of(frame))
    assert not rows.equals(RowBlocks.of(others))
    assert not rows.equals(RowBlocks.of(frame.drop("image")))
    assert not rows.equals(RowBlocks.of(frame[1:]))


@settings(max_examples=25, deadline=None)
@given(left=_ROWS, right=_ROWS)
def test_matched_blocks_have_all_rows_of_an_id(
    left: list[tuple[str, int, str]], right: list[tuple[str, int, str]]
) -> None:
    sides = [_frame(rows).sort("id", maintain_order=True) for rows in (left, right)]
    of_left, of_right = (RowBlocks.collect([side], _SCHEMA) for side in sides)
    blocks = list(matched_blocks(of_left, of_right, "id"))

    for side, parts in zip(sides, zip(*blocks, strict=True), strict=False):
        assert pl.concat(parts).equals(side)
    assert bool(blocks) == any(side.height for side in sides)
    ids = [set(pl.concat(both)["id"]) for both in blocks]
    assert len(set().union(*ids)) == sum(map(len, ids))


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(_ROWS, max_size=3))
def test_rows_know_how_many_items_they_are_of(parts: list[list[tuple[str, int, str]]]) -> None:
    frames = [_frame(part) for part in parts]
    by_id = pl.concat([_frame([]), *frames]).sort("id", maintain_order=True)
    rows = RowBlocks.collect([by_id], _SCHEMA)

    assert item_count(rows) == by_id["id"].n_unique()
    assert ids_ascend(rows) == (by_id["id"].n_unique() == by_id.height)
    unordered = pl.concat([_frame([]), *frames])["id"].to_list()
    ascend = all(a < b for a, b in itertools.pairwise(unordered))
    assert ids_ascend(RowBlocks.collect(frames, _SCHEMA)) == ascend


def test_sorted_parts_that_follow_each_other_are_written_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = []
    append = stored_rows.ScratchRows._append

    def counted(self: stored_rows.ScratchRows, rows: pl.DataFrame) -> None:
        written.append(rows.height)
        append(self, rows)

    monkeypatch.setattr(stored_rows, "rows_in_memory", lambda: 0)
    monkeypatch.setattr(stored_rows.ScratchRows, "_append", counted)
    frames = [_frame([(f"i{n:03d}", 0, "a")]) for n in range(40)]

    rows = sorted_rows.sorted_rows(frames, _SCHEMA, ["id", "image"])

    assert rows.all().equals(pl.concat(frames))
    assert sum(written) == 40


def test_columns_of_rows_are_selected_without_a_copy() -> None:
    frame = _frame([(f"i{n}", n, "a") for n in range(20)])
    rows = RowBlocks.collect([frame], _SCHEMA).select(["sha256", "id"])

    assert rows.columns == ["sha256", "id"]
    assert rows.all().equals(frame.select("sha256", "id"))
    assert rows.gather(np.array([3, 1])).equals(frame.select("sha256", "id")[[3, 1]])
    assert rows.read(2, 4, ["id"]).equals(frame.select("id")[2:4])
    assert pickle.loads(pickle.dumps(rows)).all().equals(rows.all())
