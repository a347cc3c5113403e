from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.similarity import neighbor_lists as neighbor_lists_module
from imgsim_assets.similarity import row_pairs, vector_blocks
from imgsim_assets.similarity.approximate.assigned import AssignedSides
from imgsim_assets.similarity.approximate.lists import InvertedLists
from imgsim_assets.similarity.block_join import Lists, join
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_input import InputPair
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.knn import nearest
from imgsim_assets.similarity.neighbor_lists import (
    CachedNeighborLists,
    among,
    neighbor_lists,
    top_pairs,
    with_rank,
)
from imgsim_assets.similarity.reusable_lists import LIST_SCHEMA, SCHEMA
from imgsim_assets.similarity.vector_blocks import VectorBlocks
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets_tests.support.blocks import ShuffledParts, small_blocks
from imgsim_assets_tests.support.vectors import (
    constant,
    cosines,
    families,
    lattice,
    nearly_equal,
    noise,
)

# Images by number: exact ties among the first, some with the same vector under another sha256.
_LATTICE = lattice(6, 4, seed=3)
POOL = np.concatenate([_LATTICE, noise(5, 4, seed=4), _LATTICE[:2], noise(5, 4, seed=4)[:2]])

# Few ids, so that catalogs of one history share most of them.
IDS = ["1", "Z", "a", "a b", "ab", "b/c", "é", "😀", *"mnopqrst"]
CONTENT = st.dictionaries(st.sampled_from(IDS), st.integers(0, len(POOL) - 1))
SPECS = st.builds(
    JoinSpec,
    threshold=st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
    k=st.sampled_from([None, 1, 3]),
    exclude_self=st.just(value=False),
)
# Exact, and over candidates of inverted lists.
LISTS = InvertedLists(noise(5, 4, seed=8), nprobe=2)
METHODS = st.sampled_from([None, LISTS])


def _assigned(lists: InvertedLists | None, left: Items, right: Items) -> AssignedSides | None:
    if lists is None or not len(left) or not len(right):
        return None
    return AssignedSides.of(lists, left.blocks, right.blocks)


@settings(max_examples=100, deadline=None)
@given(left=CONTENT, right=CONTENT, spec=SPECS)
def test_top_pairs_equal_the_definition(
    left: dict[str, int], right: dict[str, int], spec: JoinSpec
) -> None:
    pairs = top_pairs(neighbor_lists(_items(left), _items(right), spec), spec)

    _assert_equals_definition(pairs, left, right, spec)


@settings(max_examples=60, deadline=None)
@given(content=CONTENT, spec=SPECS)
def test_exclude_self_drops_the_item_but_not_its_copies(
    content: dict[str, int], spec: JoinSpec
) -> None:
    others = JoinSpec(spec.threshold, spec.k, exclude_self=True)

    pairs = top_pairs(neighbor_lists(_items(content), _items(content), others), others)

    _assert_equals_definition(pairs, content, content, others)


@settings(max_examples=150, deadline=None)
@given(
    states=st.lists(st.tuples(CONTENT, CONTENT), min_size=2, max_size=5), spec=SPECS, lists=METHODS
)
@example(
    states=[({"l": 0}, {"r": 0, "s": 11, "t": 1}), ({"l": 0}, {"s": 11, "t": 1})],
    spec=JoinSpec(k=1),
    lists=None,
)
def test_updated_lists_equal_a_full_computation_after_any_history(
    states: list[tuple[dict[str, int], dict[str, int]]],
    spec: JoinSpec,
    lists: InvertedLists | None,
) -> None:
    sides = [(_items(left), _items(right)) for left, right in states]
    pairs = neighbor_lists(*sides[0], spec, None, _assigned(lists, *sides[0]))
    for (old_left, old_right), (left, right) in pairwise(sides):
        cached = CachedNeighborLists(pairs, old_left.images, old_right.images)
        assigned = _assigned(lists, left, right)
        with small_blocks():
            pairs = neighbor_lists(_in_files(left), _in_files(right), spec, cached, assigned)

        in_full = neighbor_lists(left, right, spec, None, assigned)
        assert top_pairs(pairs, spec).equals(top_pairs(in_full, spec))


@settings(max_examples=100, deadline=None)
@given(states=st.lists(CONTENT, min_size=2, max_size=5), spec=SPECS, lists=METHODS)
def test_updated_lists_of_a_self_join_equal_a_full_computation(
    states: list[dict[str, int]], spec: JoinSpec, lists: InvertedLists | None
) -> None:
    others = replace(spec, exclude_self=True)
    items = [_items(content) for content in states]
    pairs = neighbor_lists(items[0], items[0], others, None, _assigned(lists, items[0], items[0]))
    for old, new in pairwise(items):
        assigned = _assigned(lists, new, new)
        cached = CachedNeighborLists(pairs, old.images, old.images)
        stored = _in_files(new)
        with small_blocks():
            pairs = neighbor_lists(stored, stored, others, cached, assigned)

        in_full = neighbor_lists(new, new, others, None, assigned)
        assert top_pairs(pairs, others).equals(top_pairs(in_full, others))


@settings(max_examples=20, deadline=None)
@given(
    kinds=st.lists(
        st.sampled_from([families, nearly_equal, constant, lattice]), min_size=1, max_size=3
    ),
    dim=st.sampled_from([8, 64]),
    threshold=st.sampled_from([-1.0, 0.5, 0.9, 1.0]),
    changed=st.sets(st.integers(0, 79), max_size=8),
    removed=st.sets(st.integers(0, 79), max_size=30),
    seed=st.integers(0, 99),
)
def test_updated_lists_of_nearly_equal_rows_equal_a_full_computation(
    kinds: list[Callable[[int, int, int], Floats]],
    dim: int,
    threshold: float,
    changed: set[int],
    removed: set[int],
    seed: int,
) -> None:
    spec = JoinSpec(threshold, k=10, exclude_self=True)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([kind(60, dim, seed + n) for n, kind in enumerate(kinds)])
    rows = drawn[rng.integers(0, len(drawn), 80)]
    keys = pl.DataFrame({"id": [f"{n:02d}" for n in range(80)]})
    keys = keys.with_columns(pl.lit(0, pl.Int32).alias("image"), pl.col("id").alias("sha256"))
    new_rows, stays = rows.copy(), np.ones(80, dtype=bool)
    new_rows[list(changed)] = drawn[rng.integers(0, len(drawn), len(changed))]
    stays[list(removed)] = False
    is_changed = pl.Series([number in changed for number in range(80)])
    new_keys = keys.with_columns(
        pl.when(is_changed).then(pl.lit("new ") + pl.col("id")).otherwise("sha256").alias("sha256")
    )
    old, new = Items(keys, rows), Items(new_keys, new_rows).where(stays)
    cached = CachedNeighborLists(neighbor_lists(old, old, spec), old.row_blocks, old.row_blocks)
    stored = _in_files(new)
    with small_blocks(7):
        updated = neighbor_lists(stored, stored, spec, cached)

    in_full = neighbor_lists(new, new, spec)
    assert top_pairs(updated, spec).equals(top_pairs(in_full, spec))


@settings(max_examples=100, deadline=None)
@given(left=CONTENT, right=CONTENT, spec=SPECS, rows=st.integers(1, 5), lists=METHODS)
def test_blocks_of_any_size_give_the_same_lists(
    left: dict[str, int],
    right: dict[str, int],
    spec: JoinSpec,
    rows: int,
    lists: InvertedLists | None,
) -> None:
    sides = _items(left), _items(right)
    assigned = _assigned(lists, *sides)
    with small_blocks(rows):
        pairs = neighbor_lists(_in_files(sides[0]), _in_files(sides[1]), spec, None, assigned)

    assert pairs.equals(neighbor_lists(*sides, spec, None, assigned))


@settings(max_examples=50, deadline=None)
@given(
    left=CONTENT,
    right=CONTENT,
    spec=SPECS,
    values=st.lists(st.sampled_from(["x", "y"]), min_size=len(IDS), max_size=len(IDS)),
    lists=METHODS,
)
def test_blocks_within_values_give_the_same_lists(
    left: dict[str, int],
    right: dict[str, int],
    spec: JoinSpec,
    values: list[str],
    lists: InvertedLists | None,
) -> None:
    value = pl.col("id").replace_strict(dict(zip(IDS, values, strict=True)), return_dtype=pl.String)
    sides = (
        Items(each.keys.with_columns(value.alias("value")), each.vectors)
        for each in (_items(left), _items(right))
    )
    left_items, right_items = sides
    assigned = _assigned(lists, left_items, right_items)
    with small_blocks():
        pairs = neighbor_lists(_in_files(left_items), _in_files(right_items), spec, None, assigned)

    assert pairs.equals(neighbor_lists(left_items, right_items, spec, None, assigned))


def test_update_within_values_reads_the_rows_of_changed_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vector_blocks, "vectors_in_memory", lambda: 0)
    value = (pl.col("id").str.slice(1).cast(pl.Int64) // 10).alias("value")
    content = {f"n{number:02d}": number % len(POOL) for number in range(60)}
    old = _items(content)
    old = Items(old.keys.with_columns(value), old.vectors)
    new = _items(content | {"n34": 1})
    new = Items(new.keys.with_columns(value), new.vectors)
    spec = JoinSpec(0.5)
    cached = CachedNeighborLists(neighbor_lists(old, old, spec), old.row_blocks, old.row_blocks)
    left, right = ShuffledParts(new.vectors), ShuffledParts(old.vectors)

    updated = neighbor_lists(
        Items(new.images, VectorBlocks.from_parts(60, left)),
        Items(old.images, VectorBlocks.from_parts(60, right)),
        spec,
        cached,
    )

    assert updated.equals(neighbor_lists(new, old, spec))
    assert (left.read, sorted(right.read)) == ([34], [*range(30, 40)])


def test_changed_rows_of_all_blocks_are_compared_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = {f"{number:03d}": number % len(POOL) for number in range(60)}
    old, right = _items(content), _items(content)
    new = _items(content | dict.fromkeys(list(content)[::20], 1))
    searched = []

    def noted(left: JoinSide, *others: Any) -> Lists:
        searched.append(len(left))
        return join(left, *others)

    with small_blocks(5):
        lists = neighbor_lists(old, right, JoinSpec(0.5))
        cached = CachedNeighborLists(lists, old.images, right.images)
        monkeypatch.setattr(neighbor_lists_module, "join", noted)
        updated = neighbor_lists(new, right, JoinSpec(0.5), cached)

    assert searched == [3]
    assert updated.equals(neighbor_lists(new, right, JoinSpec(0.5)))


def test_a_long_join_tells_how_many_blocks_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr("imgsim_assets.progress.time.monotonic", lambda: float(next(now)))
    items = _items({item: number % 8 for number, item in enumerate(IDS)})
    lines: list[str] = []

    with small_blocks(), use_compute(ComputeSettings(), lines.append):
        neighbor_lists(items, items, JoinSpec(k=2))

        count = len(items.id_blocks)

    assert count > 1
    assert lines[0].startswith(f"join: 1/{count} blocks of rows")
    assert lines[-1].startswith(f"join: {count}/{count} blocks of rows")


@pytest.mark.parametrize("k", [None, 2])
def test_update_reuses_pairs_of_unchanged_items(k: int | None) -> None:
    left, right = _items({"a": 6, "b": 7}), _items({"x": 6, "y": 8})
    spec = JoinSpec(k=k)
    marked = neighbor_lists(left, right, spec).with_columns(similarity=pl.lit(0.125))
    grown = _items({"a": 6, "b": 7, "c": 8})

    pairs = neighbor_lists(
        grown, right, spec, CachedNeighborLists(marked, left.images, right.images)
    )

    unchanged = pairs.filter(pl.col("left_id") != "c")
    assert unchanged["similarity"].to_list() == [0.125] * 4
    assert pairs.filter(left_id=pl.lit("c")).height == 2


def test_removed_neighbors_are_replaced_from_the_reserve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = JoinSpec(k=2)
    names = [f"r{number:02d}" for number in range(len(POOL))]
    left, right = _items({"a": 6}), _items(dict(zip(names, range(len(POOL)), strict=True)))
    lists = neighbor_lists(left, right, spec)
    compared: list[int] = []

    def counting(inputs: InputPair, *arguments: Any, **options: Any) -> tuple[Indices, Doubles]:
        compared.append(len(inputs.left) * len(inputs.right))
        return nearest(inputs, *arguments, **options)

    monkeypatch.setattr(row_pairs, "nearest", counting)
    for _ in range(6):
        gone = top_pairs(lists, spec)["right_id"][0]
        fewer = right.where((right.keys["id"] != gone).to_numpy())
        lists = neighbor_lists(
            left, fewer, spec, CachedNeighborLists(lists, left.images, right.images)
        )
        right = fewer

        expected = top_pairs(neighbor_lists(left, right, spec), spec)
        assert top_pairs(lists, spec).equals(expected)

    # 5 of the 6 came from the reserve; and each expectation was computed.
    assert len(compared) == 6 + 1


# All but the least similar; then with it and without the most similar; then without five.
PARTS = (slice(0, 11), slice(1, 12), slice(5, 12))


def test_pair_behind_the_end_of_a_truncated_list_is_not_its_next() -> None:
    spec = JoinSpec(k=1)
    scores = np.linspace(0.9, 0.1, 12)
    rows = np.stack([scores, np.sqrt(1 - scores**2)], axis=1).astype(np.float32)
    ids = [f"r{number:02d}" for number in range(12)]
    every = Items(pl.DataFrame({"id": ids, "sha256": ids}), rows)
    left = Items(pl.DataFrame({"id": ["a"], "sha256": ["a"]}), np.array([[1, 0]], np.float32))
    first, second, third = (every.where(np.isin(ids, ids[part])) for part in PARTS)
    lists = neighbor_lists(left, first, spec)

    after = neighbor_lists(
        left, second, spec, CachedNeighborLists(lists, left.images, first.images)
    )
    at_last = neighbor_lists(
        left, third, spec, CachedNeighborLists(after, left.images, second.images)
    )

    assert lists["right_id"].to_list() == ids[:5]
    # r11 is new, but r05 to r10 come before it and were cut off.
    assert after["right_id"].to_list() == ids[1:5]
    assert top_pairs(at_last, spec)["right_id"].to_list() == ["r05"]


@settings(max_examples=30, deadline=None)
@given(
    images=st.lists(
        st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["1", "2"])),
        min_size=2,
        max_size=2,
    )
)
def test_rows_are_among_others_of_the_same_key_and_image(images: list[dict[str, str]]) -> None:
    rows, others = (
        pl.DataFrame(
            sorted(side.items()), schema={"id": pl.String, "sha256": pl.String}, orient="row"
        )
        for side in images
    )

    with small_blocks():
        found = among(RowBlocks.of(rows), RowBlocks.of(others))

    assert found.tolist() == [images[1].get(key) == image for key, image in rows.rows()]


def test_empty_list_may_receive_more_pairs_than_it_holds() -> None:
    spec = JoinSpec(0.9, k=1)
    scores = np.array([*np.linspace(0.99, 0.91, 8), 0.0])
    rows = np.stack([scores, np.sqrt(1 - scores**2)], axis=1).astype(np.float32)
    ids = [f"r{number}" for number in range(9)]
    every = Items(pl.DataFrame({"id": ids, "sha256": ids}), rows)
    left = Items(pl.DataFrame({"id": ["a"], "sha256": ["a"]}), np.array([[1, 0]], np.float32))
    first, third = (every.where(np.isin(ids, ids[part])) for part in (slice(8, 9), slice(5, 9)))
    lists = neighbor_lists(left, first, spec)

    after = neighbor_lists(left, every, spec, CachedNeighborLists(lists, left.images, first.images))
    at_last = neighbor_lists(
        left, third, spec, CachedNeighborLists(after, left.images, every.images)
    )

    assert lists.is_empty()
    assert after["right_id"].to_list() == ids[:5]
    # All five listed pairs are gone, and three that were cut off remain.
    assert top_pairs(at_last, spec)["right_id"].to_list() == ["r5"]


def test_no_items_give_an_empty_frame_with_the_schema() -> None:
    for left, right in (({}, {"a": 1}), ({"a": 1}, {}), ({}, {})):
        for k in (None, 2):
            assert neighbor_lists(_items(left), _items(right), JoinSpec(k=k)).schema == LIST_SCHEMA


def test_ranks_start_at_one_for_each_left_item() -> None:
    pairs = neighbor_lists(_items({"a": 6, "b": 7}), _items({"x": 6, "y": 8, "z": 9}), JoinSpec())

    ranked = with_rank(pairs)

    assert ranked["rank"].to_list() == [1, 2, 3, 1, 2, 3]
    assert ranked["rank"].dtype == pl.Int32


def test_items_where_selects_keys_and_vectors() -> None:
    items = _items({"a": 6, "b": 7, "c": 8})

    narrowed = items.where(np.array([True, False, True]))

    assert narrowed.keys["id"].to_list() == ["a", "c"]
    np.testing.assert_array_equal(narrowed.vectors, POOL[[6, 8]])
    assert len(narrowed) == 2


def _items(content: Mapping[str, int]) -> Items:
    ids = sorted(content)
    keys = pl.DataFrame(
        {"id": ids, "sha256": [str(content[item]) for item in ids]},
        schema={"id": pl.String, "sha256": pl.String},
    )
    return Items(keys, POOL[[content[item] for item in ids]] if ids else np.empty((0, 4), "f4"))


def _in_files(items: Items) -> Items:
    """The items with vectors that nothing has read."""
    parts = ShuffledParts(items.vectors, part=2)
    blocks = VectorBlocks.from_parts(len(items), parts, random_access=len(items) % 2 == 0)
    return Items(items.images, blocks, items.source)


def _assert_equals_definition(
    found: pl.DataFrame, left: Mapping[str, int], right: Mapping[str, int], spec: JoinSpec
) -> None:
    expected = []
    for item in sorted(left):
        scores = [
            (float(cosines(POOL[[left[item]]], POOL[[n]])[0, 0]), other)
            for other, n in right.items()
        ]
        unchanged = [
            (-score, other)
            for score, other in scores
            if score >= spec.threshold and not (spec.exclude_self and other == item)
        ]
        expected += [(item, other, -score) for score, other in sorted(unchanged)[: spec.k]]
    assert found.schema == SCHEMA
    assert found.select("left_id", "right_id").rows() == [(a, b) for a, b, _ in expected]
    np.testing.assert_allclose(found["similarity"], [score for *_, score in expected], atol=1e-15)
