from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.nearest_items import nearest_items
from imgsim_assets.similarity.settings import Compare
from imgsim_assets_tests.support.vectors import cosines, noise


def _items(prefix: str, counts: list[int], seed: int) -> Items:
    """Items with so many images each, of random vectors."""
    keys = [
        (f"{prefix}{item:02d}", image, f"{prefix}{item:02d}{image:062d}")
        for item, count in enumerate(counts)
        for image in range(count)
    ]
    frame = pl.DataFrame(
        keys, schema={"id": pl.String, "image": pl.Int32, "sha256": pl.String}, orient="row"
    )
    return Items(frame, noise(len(keys), 16, seed))


@pytest.mark.parametrize("compare", ["any", "mean_best"])
def test_nearest_items_are_those_of_brute_force(compare: Compare) -> None:
    left, right = _items("l", [1, 3, 2, 1], 1), _items("r", [2, 1, 1, 4, 1, 2, 1], 2)

    found = nearest_items(left, right, 3, compare)

    scores = cosines(left.vectors, right.vectors)
    for number, item in enumerate(left.ids):
        rows = scores[left.numbers == number]
        best = np.stack([rows[:, right.numbers == other].max(axis=1) for other in range(7)])
        expected = best.max(axis=1) if compare == "any" else best.mean(axis=1)
        of_item = found.filter(pl.col("left_id") == item)
        order = np.argsort(-expected)[:3]
        assert of_item["right_id"].to_list() == right.ids.gather(order).to_list()
        assert np.allclose(of_item["similarity"].to_numpy(), expected[order])


def test_item_is_not_its_own_neighbor() -> None:
    items = _items("a", [2, 1, 1], 3)

    found = nearest_items(items, items, 2, exclude_self=True)
    last = nearest_items(items.where(items.numbers == 2), items, 2, exclude_self=True)

    assert found.filter(pl.col("left_id") == pl.col("right_id")).height == 0
    assert found.height == 6
    assert last.equals(found.filter(pl.col("left_id") == "a02"))


def test_no_items_have_no_neighbors() -> None:
    items = _items("a", [1, 1], 4)
    none = items.where(np.zeros(2, dtype=bool))

    assert nearest_items(none, items, 2).height == nearest_items(items, none, 2).height == 0
