from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from imgsim_assets.similarity import candidates, vector_blocks
from imgsim_assets.similarity.candidates import best_candidates, sampled_keys
from imgsim_assets.similarity.items import Items
from imgsim_assets.storage import row_blocks, stored_rows
from imgsim_assets.storage.row_blocks import RowBlocks


def _items(vectors: dict[str, list[float]]) -> Items:
    array = np.array(list(vectors.values()), dtype=np.float32).reshape(len(vectors), 2)
    keys = pl.DataFrame(
        {"id": list(vectors), "sha256": list(vectors)}, {"id": pl.String, "sha256": pl.String}
    )
    return Items(keys, array)


LEFT = _items({"a": [1, 0], "b": [0, 1], "c": [0.6, 0.8]})
RIGHT = _items({"x": [1, 0], "y": [0.8, 0.6]})
NONE = pl.Series([], dtype=pl.String)


def test_items_without_a_match_have_their_best_candidate() -> None:
    rows = best_candidates(LEFT, RIGHT, pl.Series(["a"])).rows()

    assert [row[:2] for row in rows] == [("c", "y"), ("b", "y")]
    assert [row[2] for row in rows] == pytest.approx([0.96, 0.6])


def test_item_is_no_candidate_of_itself() -> None:
    rows = best_candidates(LEFT, LEFT, NONE, exclude_self=True)

    assert set(rows.select("left_id", "right_id").rows()) == {("a", "c"), ("b", "c"), ("c", "b")}


def test_best_image_of_each_item_is_its_candidate() -> None:
    left = Items(
        pl.DataFrame({"id": ["a", "a"], "image": [0, 1], "sha256": ["1", "2"]}), LEFT.vectors[1:]
    )

    assert best_candidates(left, RIGHT, NONE).select("left_id", "right_id").rows() == [("a", "y")]
    assert best_candidates(left, left, NONE, exclude_self=True).height == 0


def test_candidates_agree_in_the_value() -> None:
    left = Items(LEFT.keys.with_columns(value=pl.Series(["v", "w", "u"])), LEFT.vectors)
    right = Items(RIGHT.keys.with_columns(value=pl.Series(["w", "v"])), RIGHT.vectors)

    pairs = best_candidates(left, right, NONE).select("left_id", "right_id").rows()

    assert pairs == [("a", "y"), ("b", "x")]


def test_sample_is_bounded() -> None:
    assert best_candidates(LEFT, RIGHT, NONE, max_products=4).height == 2


def test_candidates_do_not_depend_on_how_many_products_are_computed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once = best_candidates(LEFT, RIGHT, NONE)
    monkeypatch.setattr(candidates, "_MAX_PRODUCTS", 2)

    assert best_candidates(LEFT, RIGHT, NONE, max_products=99).equals(at_once)


def test_sample_of_items_is_the_same_among_more_of_them() -> None:
    keys = pl.DataFrame({"id": [f"{n:03}" for n in range(100)], "sha256": ["s"] * 100})

    few = sampled_keys(keys, 10)
    of_half = sampled_keys(keys.filter(pl.col("id").is_in(few["id"].implode())), 5)

    assert few.height == 10
    assert of_half.equals(sampled_keys(keys, 5))
    assert sampled_keys(keys, 100).equals(keys)


@pytest.mark.parametrize(("left", "right"), [(LEFT, _items({})), (_items({}), RIGHT)])
def test_without_items_there_are_no_candidates(left: Items, right: Items) -> None:
    assert best_candidates(left, right, NONE).height == 0


def test_keys_of_the_right_items_are_read_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_blocks, "MAX_BLOCK_ROWS", 1)
    monkeypatch.setattr(stored_rows, "rows_in_memory", lambda: 0)
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 1)
    right = Items(RowBlocks.collect([RIGHT.keys]), RIGHT.vectors)
    expected = best_candidates(LEFT, RIGHT, NONE)
    monkeypatch.setattr(right.images, "all", lambda: pytest.fail("all keys were read"))

    assert best_candidates(LEFT, right, NONE).equals(expected)
