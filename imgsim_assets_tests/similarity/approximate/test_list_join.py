from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.similarity import vector_blocks
from imgsim_assets.similarity.approximate import kmeans, list_join, training
from imgsim_assets.similarity.approximate.assigned import AssignedSides
from imgsim_assets.similarity.approximate.list_join import join_in_lists
from imgsim_assets.similarity.approximate.listed_rows import ListedRows
from imgsim_assets.similarity.approximate.lists import MAX_LISTS, InvertedLists, RowLists
from imgsim_assets.similarity.approximate.training import list_count, trained_lists
from imgsim_assets.similarity.block_join import Lists, join
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, pair_cosines
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.threads import use_threads
from imgsim_assets.similarity.vector_blocks import VectorBlocks
from imgsim_assets_tests.support.vectors import families, nearly_equal, noise

DIM = 16


@pytest.fixture(scope="module", autouse=True)
def _many_small_lists() -> Iterator[None]:
    """Let few rows have as many lists as many rows would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_MIN_ROWS_PER_LIST", 3)
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


def _side(rows: Floats, values: list[str] | None = None) -> JoinSide:
    """Rows of one item each, with values by turns."""
    value = None if values is None else pl.Series(np.resize(values, len(rows)))
    return JoinSide(VectorBlocks.of(rows), np.arange(len(rows)), value, 1)


def _joined(
    left: JoinSide, right: JoinSide, lists: InvertedLists, spec: JoinSpec, read_once: bool = False
) -> Lists:
    assigned = AssignedSides.of(lists, left.vectors, right.vectors)
    listed = ListedRows.of(right, assigned, read_once=read_once)
    every = np.arange(len(left))
    minimum = np.full(len(left), spec.threshold)
    return join_in_lists(left, listed, spec, minimum, assigned.left, every)


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


@given(sides(), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.data())
@settings(max_examples=50, deadline=None)
def test_pairs_are_those_of_the_near_lists_bit_for_bit(
    rows: tuple[Floats, Floats], k: int, count: int, nprobe: int, data: st.DataObject
) -> None:
    left, right = rows
    lists = InvertedLists(noise(count, DIM, 7), min(nprobe, count))
    cosines = _candidate_cosines(lists, left, right)
    values = data.draw(st.sampled_from([None, ["x"], ["x", "y", "z"]]), "values")
    if values is not None:
        of_left, of_right = (np.resize(values, len(side)) for side in rows)
        cosines[of_left[:, None] != of_right[None, :]] = -np.inf
    read_once = data.draw(st.booleans(), "read once")
    best = float(np.max(cosines, initial=-1))
    threshold = data.draw(st.sampled_from([-1.0, 0.3, 0.9, best]), "threshold")
    spec = JoinSpec(threshold, data.draw(st.sampled_from([None, k]), "k"))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_ROWS_PER_GROUP", "_MIN_GROUP_ROWS", "_MAX_TILE_ROWS", "_MAX_TILE_COLUMNS"):
            patch.setattr(list_join, name, data.draw(st.sampled_from([1, 3, 1000]), name))
        patch.setattr(vector_blocks, "MAX_BLOCK_ROWS", data.draw(st.sampled_from([2, 11, 1000])))
        in_memory = data.draw(st.sampled_from([0, 1 << 20]))
        patch.setattr(vector_blocks, "vectors_in_memory", lambda: in_memory)
        found = _joined(_side(left, values), _side(right, values), lists, spec, read_once)

    i, j = np.nonzero(cosines >= threshold)
    order = np.lexsort((j, -cosines[i, j], i))
    i, j = i[order], j[order]
    depth = spec.depth(max_images=1)
    if depth is not None:
        within = np.arange(len(i)) - np.searchsorted(i, i) < depth
        i, j = i[within], j[within]
    np.testing.assert_array_equal(found.i, i)
    np.testing.assert_array_equal(found.j, j)
    np.testing.assert_array_equal(found.similarity, cosines[i, j])


@given(sides(), st.sampled_from([None, 1, 4]))
@settings(max_examples=8, deadline=None)
def test_trained_lists_that_are_all_probed_give_the_exact_join(
    rows: tuple[Floats, Floats], k: int | None
) -> None:
    left, right = map(_side, rows)
    lists = trained_lists(left.vectors, right.vectors)
    spec, minimum = JoinSpec(0.2, k), np.full(len(left), 0.2)

    found = _joined(left, right, lists, spec)

    for mine, theirs in zip(found, join(left, right, spec, minimum), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_lists_and_pairs_do_not_depend_on_threads_or_on_other_rows() -> None:
    rows = families(1500, DIM, 3)
    side, spec = _side(rows), JoinSpec(k=4)
    with use_threads(1):
        lists = trained_lists(side.vectors, side.vectors).with_nprobe(3)
        alone = _joined(side, side, lists, spec)
    with use_threads(3):
        again = trained_lists(side.vectors, side.vectors)
        together = _joined(side, side, lists, spec)
        some = np.arange(0, len(rows), 7)
        of_some = _joined(side.take(some), side, lists, spec)

    assert len(lists) > 50
    np.testing.assert_array_equal(again.centroids, lists.centroids)
    for mine, theirs in zip(together, alone, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(of_some.j, alone.j[np.isin(alone.i, some)])


@pytest.mark.parametrize("are_two_sides", [False, True])
def test_training_does_not_depend_on_blocks_or_threads(are_two_sides: bool) -> None:
    rows = families(700, DIM, 3)
    rows[100:300] = rows[0]
    left = VectorBlocks.of(rows)
    right = VectorBlocks.of(rows[50:]) if are_two_sides else left

    trained = []
    for block_rows, in_memory, threads in [(1 << 16, 1 << 20, 1), (30, 0, 3), (1, 1 << 20, 2)]:
        with pytest.MonkeyPatch.context() as patch, use_threads(threads):
            patch.setattr(kmeans, "_SUMMED_BYTES", 10 * 4 * DIM)
            patch.setattr(vector_blocks, "MAX_BLOCK_ROWS", block_rows)
            patch.setattr(vector_blocks, "vectors_in_memory", lambda: in_memory)  # noqa: B023
            trained.append(trained_lists(left, right).centroids)

    assert len(trained[0]) > 50
    np.testing.assert_array_equal(trained[1], trained[0])
    np.testing.assert_array_equal(trained[2], trained[0])


def test_the_budget_decides_how_many_rows_are_searched_for_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side, spec = _side(families(1000, DIM, 3)), JoinSpec(k=4)
    lists = trained_lists(side.vectors, side.vectors).with_nprobe(100)
    whole = _joined(side, side, lists, spec)
    batches = []
    of_batch = list_join._of_batch

    def counted(left: JoinSide, *arguments: Any) -> Lists:
        batches.append(len(left))
        return of_batch(left, *arguments)

    monkeypatch.setattr(list_join, "_of_batch", counted)
    monkeypatch.setattr(list_join, "join_budget", lambda: 1 << 18)

    again = _joined(side, side, lists, spec)

    assert len(batches) > 3
    for mine, theirs in zip(again, whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_more_probes_find_more_of_the_nearest() -> None:
    side, spec, minimum = _side(families(2000, DIM, 5)), JoinSpec(k=10), np.full(2000, -1.0)
    lists = trained_lists(side.vectors, side.vectors)
    exact = {*_pairs(join(side, side, spec, minimum))}

    found = []
    for nprobe in (1, 4, 16, len(lists)):
        probing = lists.with_nprobe(nprobe)
        found.append(len(exact & {*_pairs(_joined(side, side, probing, spec))}))

    assert found == sorted(found)
    assert 0.2 * len(exact) < found[0] < found[1] < found[2]
    assert found[3] == len(exact)


def _pairs(lists: Lists) -> Iterator[tuple[int, int]]:
    return zip(lists.i.tolist(), lists.j.tolist(), strict=True)


def test_the_last_of_as_many_lists_as_there_can_be_is_probed() -> None:
    last = np.array([MAX_LISTS - 1], np.uint16)
    lists = InvertedLists(np.resize(noise(2, DIM, 1), (MAX_LISTS, DIM)), nprobe=1)
    right = AssignedSides(lists, RowLists(last, last[:, None]), last)
    listed = ListedRows.of(_side(noise(1, DIM, 2)), right)
    left = RowLists(np.array([0, *last], np.uint16), np.array([[0], [MAX_LISTS - 1]], np.uint16))

    probed = listed.are_probed(_side(noise(2, DIM, 3)), left)

    assert probed.tolist() == [False, True]


def test_the_number_of_lists_grows_with_the_root_of_the_rows() -> None:
    assert list_count(4_000_000) == 2 * list_count(1_000_000)
    assert list_count(0) == 1
    assert list_count(10**12) == MAX_LISTS
