from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.pairs import (
    SCHEMA,
    Answer,
    Items,
    Question,
    compute,
    update,
    with_rank,
)
from imgsim_assets_tests.support.vectors import cosines, lattice, noise

# Images by number: exact ties among the first, some with the same vector under another sha256.
_LATTICE = lattice(6, 4, seed=3)
POOL = np.concatenate([_LATTICE, noise(5, 4, seed=4), _LATTICE[:2], noise(5, 4, seed=4)[:2]])

# Few ids, so that catalogues of one history share most of them.
IDS = ["1", "Z", "a", "a b", "ab", "b/c", "é", "😀"]
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
    found = compute(_items(left), _items(right), question)

    _assert_answers(found, left, right, question)


@settings(max_examples=60, deadline=None)
@given(content=CONTENT, question=QUESTIONS)
def test_among_others_only_no_item_is_paired_with_itself_but_with_its_copies(
    content: dict[str, int], question: Question
) -> None:
    others = Question(question.threshold, question.k, others_only=True)

    found = compute(_items(content), _items(content), others)

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
    pairs = compute(*sides[0], question)
    for (old_left, old_right), (left, right) in pairwise(sides):
        pairs = update(Answer(pairs, old_left.keys, old_right.keys), left, right, question)

        assert pairs.equals(compute(left, right, question))


@settings(max_examples=100, deadline=None)
@given(states=st.lists(CONTENT, min_size=2, max_size=5), question=QUESTIONS)
def test_after_any_history_updated_neighbours_equal_those_computed_in_full(
    states: list[dict[str, int]], question: Question
) -> None:
    others = Question(question.threshold, question.k, others_only=True)
    items = [_items(content) for content in states]
    pairs = compute(items[0], items[0], others)
    for old, new in pairwise(items):
        pairs = update(Answer(pairs, old.keys, old.keys), new, new, others)

        assert pairs.equals(compute(new, new, others))


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


def test_an_item_that_loses_one_of_a_full_set_gets_the_next_best() -> None:
    question = Question(k=2)
    left, right = _items({"a": 6}), _items({"w": 6, "x": 7, "y": 8, "z": 9})
    before = compute(left, right, question)
    best = before["right_id"][0]
    without = _items(
        {item: n for item, n in (("w", 6), ("x", 7), ("y", 8), ("z", 9)) if item != best}
    )

    after = update(Answer(before, left.keys, right.keys), left, without, question)

    assert after.height == 2
    assert after["right_id"][0] == before["right_id"][1]


def test_no_items_give_an_empty_frame_of_the_right_columns() -> None:
    for left, right in (({}, {"a": 1}), ({"a": 1}, {}), ({}, {})):
        for k in (None, 2):
            assert compute(_items(left), _items(right), Question(k=k)).schema == SCHEMA


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
