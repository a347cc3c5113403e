from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity.approximate import lists as lists_module
from imgsim_assets.similarity.approximate import scan
from imgsim_assets.similarity.approximate.join import candidates_above, nearest_candidates
from imgsim_assets.similarity.approximate.lists import InvertedLists, list_count
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, pair_cosines
from imgsim_assets.similarity.join import pairs_above
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.knn import nearest
from imgsim_assets.similarity.threads import use_threads
from imgsim_assets_tests.support.vectors import families, nearly_equal, noise

DIM = 16


@pytest.fixture(scope="module", autouse=True)
def _many_small_lists() -> Iterator[None]:
    """Let few rows have as many lists as many rows would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists_module, "_MIN_ROWS_PER_LIST", 3)
        yield


@st.composite
def sides(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Two arrays of rows, with copies within and between them."""
    seed = draw(st.integers(0, 2**32 - 1))
    make = draw(st.sampled_from([noise, families, nearly_equal]))
    left = make(draw(st.integers(1, 60)), DIM, seed)
    right = make(draw(st.integers(1, 60)), DIM, seed + 1)
    for _ in range(draw(st.integers(0, 6))):
        right[draw(st.integers(0, len(right) - 1))] = left[draw(st.integers(0, len(left) - 1))]
        left[draw(st.integers(0, len(left) - 1))] = left[draw(st.integers(0, len(left) - 1))]
    return left, right


def _inputs(left: Floats, right: Floats) -> InputPair:
    return InputPair.of(JoinInput.of(left, "left"), JoinInput.of(right, "right"))


def _centroids(count: int, seed: int) -> Floats:
    """Centroids that no training made: any rows will do."""
    return noise(count, DIM, seed)


def _candidate_cosines(lists: InvertedLists, left: Floats, right: Floats) -> Doubles:
    """The cosines (n, m) by the definition of a candidate; -inf for other pairs."""
    centroids = np.arange(len(lists))

    def in_order(row: Floats) -> Indices:
        zeros = np.zeros(len(lists), np.int64)
        cosines = pair_cosines(row[None], lists.centroids, zeros, centroids)
        return np.lexsort((centroids, -cosines))

    own = [in_order(row)[0] for row in right]
    i, j = np.indices((len(left), len(right))).reshape(2, -1)
    cosines = pair_cosines(left, right, i, j).reshape(len(left), len(right))
    for row, of_row in zip(left, cosines, strict=True):
        of_row[~np.isin(own, in_order(row)[: lists.nprobe])] = -np.inf
    return cosines


@given(sides(), st.integers(1, 70), st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_pairs_are_those_of_the_near_lists_bit_for_bit(
    rows: tuple[Floats, Floats], k: int, count: int, nprobe: int, data: st.DataObject
) -> None:
    left, right = rows
    lists = InvertedLists(_centroids(count, 7), min(nprobe, count))
    cosines = _candidate_cosines(lists, left, right)
    threshold = data.draw(st.sampled_from([-1.0, 0.3, 0.9, float(np.max(cosines, initial=-1))]))
    minimum = np.where(np.arange(len(left)) % 2, threshold, -1.0)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_ROWS_PER_GROUP", "_MAX_TILE_ROWS", "_MAX_TILE_COLUMNS"):
            patch.setattr(scan, name, data.draw(st.sampled_from([1, 3, 1000]), name))
        index, similarity = nearest_candidates(_inputs(left, right), lists, k, minimum)
        pairs = candidates_above(_inputs(left, right), lists, threshold)

    for row, of_row in enumerate(cosines):
        order = np.lexsort((np.arange(len(right)), -of_row))
        expected = [j for j in order if of_row[j] >= minimum[row]][:k]
        assert index[row].tolist() == [*expected, *[-1] * (k - len(expected))]
        np.testing.assert_array_equal(similarity[row][: len(expected)], of_row[expected])
    i, j = np.nonzero(cosines >= threshold)
    order = np.lexsort((j, -cosines[i, j], i))
    np.testing.assert_array_equal(pairs[0], i[order])
    np.testing.assert_array_equal(pairs[1], j[order])
    np.testing.assert_array_equal(pairs[2], cosines[i, j][order])


@given(sides(), st.integers(1, 10))
@settings(max_examples=8, deadline=None)
def test_trained_lists_that_are_all_probed_give_the_exact_join(
    rows: tuple[Floats, Floats], k: int
) -> None:
    inputs = _inputs(*rows)
    lists = InvertedLists.train(inputs)
    minimum = np.full(len(rows[0]), -1.0)

    for actual, expected in (
        (nearest_candidates(inputs, lists, k, minimum), nearest(inputs, k, minimum)),
        (candidates_above(inputs, lists, 0.5), pairs_above(inputs, 0.5)),
    ):
        for mine, theirs in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_lists_and_pairs_do_not_depend_on_threads_or_on_other_rows() -> None:
    rows = families(1500, DIM, 3)
    inputs = _inputs(rows, rows)
    with use_threads(1):
        lists = InvertedLists.train(inputs).with_nprobe(3)
        alone = nearest_candidates(inputs, lists, 4, np.full(len(rows), -1.0))
    with use_threads(3):
        again = InvertedLists.train(inputs)
        index, _ = nearest_candidates(inputs, lists, 4, np.full(len(rows), -1.0))
        some, _ = nearest_candidates(
            _inputs(rows[::7], rows), lists, 4, np.full(len(rows[::7]), -1)
        )

    assert len(lists) > 50
    np.testing.assert_array_equal(again.centroids, lists.centroids)
    np.testing.assert_array_equal(index, alone[0])
    np.testing.assert_array_equal(some, index[::7])


def test_more_probes_find_more_of_the_nearest() -> None:
    rows = families(2000, DIM, 5)
    inputs, minimum = _inputs(rows, rows), np.full(2000, -1.0)
    lists = InvertedLists.train(inputs)
    exact, _ = nearest(inputs, 10, minimum)

    found = []
    for nprobe in (1, 4, 16, len(lists)):
        index, _ = nearest_candidates(inputs, lists.with_nprobe(nprobe), 10, minimum)
        pairs = zip(index, exact, strict=True)
        found.append(sum(len(np.intersect1d(mine, theirs)) for mine, theirs in pairs))

    assert found == sorted(found)
    assert found[0] > 0.2 * exact.size
    assert found[-1] == exact.size


def test_the_number_of_lists_grows_with_the_root_of_the_rows() -> None:
    assert list_count(4_000_000) == 2 * list_count(1_000_000)
    assert list_count(0) == 1
    assert list_count(10**12) == lists_module.MAX_LISTS
