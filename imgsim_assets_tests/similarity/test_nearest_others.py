from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.items import Items, turned_keys
from imgsim_assets.similarity.nearest_others import nearest_others
from imgsim_assets.similarity.other_items import DEPTH
from imgsim_assets_tests.support.blocks import small_blocks
from imgsim_assets_tests.support.image_pool import POOL, TURNED, TURNED_SIMILARITY


def _items(ids: list[str], rows: np.ndarray) -> Items:
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    keys = pl.DataFrame({"id": ids, "sha256": [f"{row}" for row in range(len(ids))]})
    return Items(keys, units.astype(np.float32))


def _at(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_images_of_one_item_are_no_pair() -> None:
    items = _items(["a", "a", "b"], _at([0, 1, 40]))

    others = nearest_others(items)

    assert len(others) == 2
    expected = np.cos(np.radians(39))
    np.testing.assert_allclose(others.best, expected, atol=1e-6)
    assert np.isneginf(others.all().similarity[:, 1:]).all()


def test_item_with_many_images_still_finds_others() -> None:
    ids = ["a"] * 12 + ["b"]
    items = _items(ids, _at([*(0.1 * n for n in range(12)), 50]))

    others = nearest_others(items)

    assert np.isfinite(others.best).all()


def test_items_that_share_an_image_are_no_pair() -> None:
    items = _items(["a", "a", "b", "b", "c"], _at([0, 10, 0, 12, 60]))

    others = nearest_others(items)

    # a and b share the image at 0 degrees, so that 10 and 12 degrees are not compared.
    np.testing.assert_allclose(others.best, np.cos(np.radians([50, 48, 48])), atol=1e-6)


def test_same_pixels_are_no_pair() -> None:
    items = _items(["a", "b", "c"], _at([0, 0, 30]))

    others = nearest_others(items)

    np.testing.assert_allclose(others.best, np.cos(np.radians(30)), atol=1e-6)
    assert others.clusters == 2


def test_pairs_known_to_be_the_same_are_left_out() -> None:
    items = _items(["a", "b", "c"], _at([0, 5, 60]))
    same = pl.DataFrame({"left_id": ["b", "gone"], "right_id": ["a", "b"]})

    others = nearest_others(items, same)

    np.testing.assert_allclose(others.best, np.cos(np.radians([60, 55, 55])), atol=1e-6)


@given(
    counts=st.lists(st.integers(1, 3), min_size=2, max_size=12),
    seed=st.integers(0, 1000),
)
@settings(max_examples=20, deadline=None)
def test_nearest_different_items_equal_brute_force(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [f"{item:02d}" for item, count in enumerate(counts) for _ in range(count)]
    items = _items(ids, rng.standard_normal((len(ids), 3)))

    others = nearest_others(items)

    cosines = items.vectors.astype(np.float64) @ items.vectors.T.astype(np.float64)
    item = np.array([int(each) for each in ids])
    for number in range(len(counts)):
        best = sorted(
            (
                cosines[np.ix_(item == number, item == other)].max()
                for other in range(len(counts))
                if other != number
            ),
            reverse=True,
        )
        np.testing.assert_allclose(others.all().similarity[number, 0], best[0], atol=1e-6)
        known = others.all().similarity[number][np.isfinite(others.all().similarity[number])]
        np.testing.assert_allclose(known, best[: len(known)][:DEPTH], atol=1e-6)


@given(
    images=st.lists(st.tuples(st.integers(0, 9), st.integers(0, len(POOL) - 1)), min_size=1),
    same=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3),
    rows=st.integers(1, 3),
    has_aligned=st.booleans(),
    is_turned=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_others_do_not_depend_on_the_blocks(
    images: list[tuple[int, int]],
    same: list[tuple[int, int]],
    rows: int,
    has_aligned: bool,
    is_turned: bool,
) -> None:
    numbers = [number for _, number in sorted(images)]
    keys = pl.DataFrame(
        {"id": [f"i{item}" for item, _ in sorted(images)], "sha256": [str(n) for n in numbers]}
    )
    pairs = pl.DataFrame(
        [(f"i{a}", f"i{b}") for a, b in same],
        schema={"left_id": pl.String, "right_id": pl.String},
        orient="row",
    )
    turned = None
    if is_turned:
        turned = Items(turned_keys(keys), TURNED[numbers].reshape(8 * len(numbers), -1))

    def every_third(compared: pl.DataFrame) -> pl.DataFrame:
        total = pl.col("left_sha256").cast(pl.Int64) + pl.col("right_sha256").cast(pl.Int64)
        return compared.filter(total % 3 == 0)

    aligned = every_third if has_aligned else None
    whole = nearest_others(Items(keys, POOL[numbers]), pairs, turned, aligned)

    with small_blocks(rows), pytest.MonkeyPatch.context() as patch:
        patch.setattr("imgsim_assets.similarity.nearest_others._RANKED_ROWS", rows)
        in_blocks = nearest_others(Items(keys, POOL[numbers]), pairs, turned, aligned)

    np.testing.assert_array_equal(in_blocks.cluster, whole.cluster)
    for found, expected in zip(in_blocks.all(), whole.all(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_over_orientations_the_best_of_each_pair_counts() -> None:
    count = 11  # different vectors
    keys = pl.DataFrame(
        {
            "id": [f"i{n:02}" for n in range(count)],
            "image": pl.Series([0] * count, dtype=pl.Int32),
            "sha256": [str(n) for n in range(count)],
        }
    )
    turned = Items(turned_keys(keys), TURNED[:count].reshape(8 * count, -1))

    others = nearest_others(Items(keys, POOL[:count]), turned=turned)

    best = np.max([each[:count, :count] for each in TURNED_SIMILARITY], axis=0)
    np.fill_diagonal(best, -np.inf)
    expected = -np.sort(-best, axis=1)[:, :DEPTH]
    np.testing.assert_allclose(others.all().similarity, expected, atol=1e-12)
