from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity import pairs as pairs_module
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.join import nearest
from imgsim_assets.similarity.join_input import Pair
from imgsim_assets.similarity.pairs import (
    LIST_SCHEMA,
    SCHEMA,
    Answer,
    Items,
    Question,
    best,
    compute,
    update,
    with_rank,
)
from imgsim_assets_tests.support.vectors import cosines, lattice, noise

# Images by number: exact ties among the first, some with the same vector under another sha256.
_LATTICE = lattice(6, 4, seed=3)
POOL = np.concatenate([_LATTICE, noise(5, 4, seed=4), _LATTICE[:2], noise(5, 4, seed=4)[:2]])

# Few ids, so that catalogs of one history share most of them.
IDS = ["1", "Z", "a", "a b", "ab", "b/c", "é", "😀", *"mnopqrst"]
CONTENT = st.dictionaries(st.sampled_from(IDS), st.integers(0, len(POOL) - 1))
QUESTIONS = st.builds(
    Question,
    threshold=st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
    k=st.sampled_from([None, 1, 3]),
    others_only=st.just(value=False),
)


@settings(max_examples=100, deadline=None)
@given(left=CONTENT, right=CONTENT, question=QUESTIONS)
def test_pairs_are_those_of_the_definition_in_the_described_order(
    left: dict[str, int], right: dict[str, int], question: Question
) -> None:
    found = best(compute(_items(left), _items(right), question), question)

    _assert_answers(found, left, right, question)


@settings(max_examples=60, deadline=None)
@given(content=CONTENT, question=QUESTIONS)
def test_among_others_only_no_item_is_paired_with_itself_but_with_its_copies(
    content: dict[str, int], question: Question
) -> None:
    others = Question(question.threshold, question.k, others_only=True)

    found = best(compute(_items(content), _items(content), others), others)

    _assert_answers(found, content, content, others)


@settings(max_examples=150, deadline=None)
@given(states=st.lists(st.tuples(CONTENT, CONTENT), min_size=2, max_size=5), question=QUESTIONS)
@example(
    states=[({"l": 0}, {"r": 0, "s": 11, "t": 1}), ({"l": 0}, {"s": 11, "t": 1})],
    question=Question(k=1),
)
def test_after_any_history_updated_pairs_equal_those_computed_in_full(
    states: list[tuple[dict[str, int], dict[str, int]]], question: Question
) -> None:
    sides = [(_items(left), _items(right)) for left, right in states]
    lists = compute(*sides[0], question)
    for (old_left, old_right), (left, right) in pairwise(sides):
        lists = update(Answer(lists, old_left.keys, old_right.keys), left, right, question)

        assert best(lists, question).equals(best(compute(left, right, question), question))


@settings(max_examples=100, deadline=None)
@given(states=st.lists(CONTENT, min_size=2, max_size=5), question=QUESTIONS)
def test_after_any_history_updated_neighbors_equal_those_computed_in_full(
    states: list[dict[str, int]], question: Question
) -> None:
    others = Question(question.threshold, question.k, others_only=True)
    items = [_items(content) for content in states]
    lists = compute(items[0], items[0], others)
    for old, new in pairwise(items):
        lists = update(Answer(lists, old.keys, old.keys), new, new, others)

        assert best(lists, others).equals(best(compute(new, new, others), others))


@pytest.mark.parametrize("k", [None, 2])
def test_an_update_does_not_compute_pairs_of_unchanged_items_again(k: int | None) -> None:
    left, right = _items({"a": 6, "b": 7}), _items({"x": 6, "y": 8})
    question = Question(k=k)
    marked = compute(left, right, question).with_columns(similarity=pl.lit(0.125))
    grown = _items({"a": 6, "b": 7, "c": 8})

    pairs = update(Answer(marked, left.keys, right.keys), grown, right, question)

    kept = pairs.filter(pl.col("left_id") != "c")
    assert kept["similarity"].to_list() == [0.125] * 4
    assert pairs.filter(left_id=pl.lit("c")).height == 2


def test_neighbors_that_are_removed_are_replaced_from_the_reserve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    question = Question(k=2)
    names = [f"r{number:02d}" for number in range(len(POOL))]
    left, right = _items({"a": 6}), _items(dict(zip(names, range(len(POOL)), strict=True)))
    lists = compute(left, right, question)
    compared: list[int] = []

    def counting(pair: Pair, k: int, at_least: Doubles) -> tuple[Indices, Doubles]:
        compared.append(len(pair.left) * len(pair.right))
        return nearest(pair, k, at_least)

    monkeypatch.setattr(pairs_module, "nearest", counting)
    for _ in range(6):
        gone = best(lists, question)["right_id"][0]
        fewer = right.where((right.keys["id"] != gone).to_numpy())
        lists = update(Answer(lists, left.keys, right.keys), left, fewer, question)
        right = fewer

        expected = best(compute(left, right, question), question)
        assert best(lists, question).equals(expected)

    # 5 of the 6 came from the reserve; and each expectation was computed.
    assert len(compared) == 6 + 1


# All but the least similar; then with it and without the most similar; then without five.
PARTS = (slice(0, 11), slice(1, 12), slice(5, 12))


def test_what_comes_after_the_end_of_a_list_that_was_cut_off_is_not_taken_for_its_next() -> None:
    question = Question(k=1)
    scores = np.linspace(0.9, 0.1, 12)
    rows = np.stack([scores, np.sqrt(1 - scores**2)], axis=1).astype(np.float32)
    ids = [f"r{number:02d}" for number in range(12)]
    every = Items(pl.DataFrame({"id": ids, "sha256": ids}), rows)
    left = Items(pl.DataFrame({"id": ["a"], "sha256": ["a"]}), np.array([[1, 0]], np.float32))
    first, second, third = (every.where(np.isin(ids, ids[part])) for part in PARTS)
    lists = compute(left, first, question)

    after = update(Answer(lists, left.keys, first.keys), left, second, question)
    at_last = update(Answer(after, left.keys, second.keys), left, third, question)

    assert lists["right_id"].to_list() == ids[:5]
    # r11 is new, but r05 to r10 were not listed and stand before it.
    assert after["right_id"].to_list() == ids[1:5]
    assert best(at_last, question)["right_id"].to_list() == ["r05"]


def test_an_item_without_matches_may_get_more_than_a_list_holds_at_once() -> None:
    question = Question(0.9, k=1)
    scores = np.array([*np.linspace(0.99, 0.91, 8), 0.0])
    rows = np.stack([scores, np.sqrt(1 - scores**2)], axis=1).astype(np.float32)
    ids = [f"r{number}" for number in range(9)]
    every = Items(pl.DataFrame({"id": ids, "sha256": ids}), rows)
    left = Items(pl.DataFrame({"id": ["a"], "sha256": ["a"]}), np.array([[1, 0]], np.float32))
    first, third = (every.where(np.isin(ids, ids[part])) for part in (slice(8, 9), slice(5, 9)))
    lists = compute(left, first, question)

    after = update(Answer(lists, left.keys, first.keys), left, every, question)
    at_last = update(Answer(after, left.keys, every.keys), left, third, question)

    assert lists.is_empty()
    assert after["right_id"].to_list() == ids[:5]
    # All five that were listed are gone, and three that were not stand.
    assert best(at_last, question)["right_id"].to_list() == ["r5"]


def test_no_items_give_an_empty_frame_of_the_right_columns() -> None:
    for left, right in (({}, {"a": 1}), ({"a": 1}, {}), ({}, {})):
        for k in (None, 2):
            assert compute(_items(left), _items(right), Question(k=k)).schema == LIST_SCHEMA


def test_ranks_count_from_one_within_each_left_item() -> None:
    pairs = compute(_items({"a": 6, "b": 7}), _items({"x": 6, "y": 8, "z": 9}), Question())

    ranked = with_rank(pairs)

    assert ranked["rank"].to_list() == [1, 2, 3, 1, 2, 3]
    assert ranked["rank"].dtype == pl.Int32


def test_items_can_be_narrowed_with_their_vectors() -> None:
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


def _assert_answers(
    found: pl.DataFrame, left: Mapping[str, int], right: Mapping[str, int], question: Question
) -> None:
    expected = []
    for item in sorted(left):
        scores = [
            (float(cosines(POOL[[left[item]]], POOL[[n]])[0, 0]), other)
            for other, n in right.items()
        ]
        kept = [
            (-score, other)
            for score, other in scores
            if score >= question.threshold and not (question.others_only and other == item)
        ]
        expected += [(item, other, -score) for score, other in sorted(kept)[: question.k]]
    assert found.schema == SCHEMA
    assert found.select("left_id", "right_id").rows() == [(a, b) for a, b, _ in expected]
    np.testing.assert_allclose(found["similarity"], [score for *_, score in expected], atol=1e-15)
