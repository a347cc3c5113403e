from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.storage.id_blocks import MAX_ROWS, MIN_ROWS, IdBlock, id_blocks
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets_tests.support.blocks import small_blocks

IDS = [f"item {number:07d}" for number in range(60_000)]
LARGE = pl.Series(IDS)


def _rows(ids: pl.Series) -> RowBlocks:
    return RowBlocks.of(ids.alias("id").to_frame())


@given(st.lists(st.text("abé😀", min_size=1, max_size=3), max_size=40).map(sorted))
def test_blocks_cover_all_rows_and_never_part_an_item(ids: list[str]) -> None:
    rows = pl.Series(ids, dtype=pl.String)
    with small_blocks():
        blocks = id_blocks(_rows(rows))

    assert [block.start for block in blocks[1:]] == [block.stop for block in blocks[:-1]]
    assert (blocks[0].start, blocks[-1].stop) == (0, len(ids))
    assert (blocks[0].first, blocks[-1].after) == ("", None)
    for block in blocks:
        inside = [block.start <= row < block.stop for row in range(len(ids))]
        assert block.holds(rows).tolist() == inside


def test_blocks_are_neither_small_nor_large() -> None:
    sizes = [block.stop - block.start for block in id_blocks(_rows(LARGE))]

    assert len(sizes) > 3
    assert all(MIN_ROWS <= size <= MAX_ROWS for size in sizes[:-1])


@pytest.mark.parametrize("change", ["added", "removed"])
def test_one_item_changes_one_block(change: str) -> None:
    changed = sorted([*IDS, "item 0030000b"]) if change == "added" else [*IDS[:9], *IDS[10:]]

    before, after = (
        {(block.first, block.after) for block in id_blocks(_rows(pl.Series(ids)))}
        for ids in (IDS, changed)
    )

    assert len(before - after) <= 2


def test_many_images_of_one_item_are_one_block() -> None:
    assert id_blocks(_rows(pl.Series(["a"] * (3 * MAX_ROWS)))) == [
        IdBlock(0, 3 * MAX_ROWS, "", None)
    ]


def test_rows_in_another_order_have_blocks_of_their_own() -> None:
    rows = _rows(LARGE.reverse())
    blocks = id_blocks(rows)
    sizes = [block.stop - block.start for block in blocks]

    assert len(sizes) > 3
    assert all(MIN_ROWS <= size <= MAX_ROWS for size in sizes[:-1])
    assert [block.start for block in blocks[1:]] == [block.stop for block in blocks[:-1]]
    assert [block.after for block in blocks] == [*(block.first for block in blocks[1:]), None]
    firsts = [rows.read(block.start, block.start + 1)["id"][0] for block in blocks]
    assert [block.first for block in blocks[1:]] == firsts[1:]


@pytest.mark.parametrize("change", ["added", "removed"])
def test_one_item_changes_few_blocks_of_rows_in_another_order(change: str) -> None:
    order = IDS[::-1]
    changed = [*order[:30_000], "other", *order[30_000:]] if change == "added" else order[1:]

    before, after = (
        {(block.first, block.after) for block in id_blocks(_rows(pl.Series(ids)))}
        for ids in (order, changed)
    )

    assert len(before - after) <= 2
