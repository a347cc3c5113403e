from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.similarity.materialized import LEFT_ITEMS, RIGHT_ITEMS, State, updated
from imgsim_assets.similarity.pairs import Answer, Items, Question, compute
from imgsim_assets.storage.commit import ROWS, Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.vectors import noise

RECIPE = {"mode": "best", "k": None, "threshold": 0.5}
LEFT = Items(pl.DataFrame({"id": ["a", "b"], "sha256": ["1", "2"]}), noise(2, 3, 0))
RIGHT = Items(pl.DataFrame({"id": ["x"], "sha256": ["3"]}), noise(1, 3, 1))
PAIRS = compute(LEFT, RIGHT, Question())


def test_a_table_without_a_version_has_nothing_to_build_on(store: Store) -> None:
    state = _state(store, RECIPE)

    assert (state.newest, state.base, state.answer(ROWS)) == (None, None, None)
    assert not state.is_current(LEFT, RIGHT)


def test_a_result_can_be_built_on_by_the_same_recipe(store: Store) -> None:
    commit = _commit(store)

    state = _state(store, RECIPE)

    assert state.base == state.newest == commit
    answer = state.answer(ROWS)
    assert answer is not None
    assert answer.lists.equals(PAIRS)
    assert answer.left.equals(LEFT.keys)
    assert answer.right.equals(RIGHT.keys)


@pytest.mark.parametrize(
    "recipe", [{**RECIPE, "threshold": 0.6}, {**RECIPE, "k": 1}, {**RECIPE, "fingerprint": "f"}]
)
def test_a_result_of_another_recipe_is_not_built_on(
    store: Store, recipe: Mapping[str, object]
) -> None:
    commit = _commit(store)

    state = _state(store, recipe)

    assert (state.newest, state.base) == (commit, None)
    assert state.answer(ROWS) is None
    assert not state.is_current(LEFT, RIGHT)


def test_lists_are_built_on_where_only_what_is_made_of_them_was_declared_otherwise(
    store: Store,
) -> None:
    commit = _commit(store)

    other = _state(store, {**RECIPE, "mode": "all"}, of_lists=("k", "threshold"))
    anew = _state(store, {**RECIPE, "threshold": 0.6}, of_lists=("k", "threshold"))

    assert (other.base, other.known) == (None, commit)
    assert not other.is_current(LEFT, RIGHT)
    answer = other.answer(ROWS)
    assert answer is not None
    assert answer.lists.equals(PAIRS)
    assert (anew.known, anew.answer(ROWS)) == (None, None)


def test_pairs_that_are_no_lists_are_taken_for_complete_ones(store: Store) -> None:
    state = _state(store, RECIPE)
    rows = PAIRS.drop("complete").with_columns(rank=pl.lit(1))
    state.commit([state.table.write_rows(rows)], LEFT, RIGHT, {"images": 1})

    answer = _state(store, RECIPE).answer(ROWS)

    assert answer is not None
    assert answer.lists.equals(PAIRS)


def test_a_result_with_lists_of_an_older_format_is_not_built_on(store: Store) -> None:
    table, written = _table(store), _commit(store)
    table.commit(lambda _: PendingCommit(written.files, written.inputs, RECIPE))

    state = _state(store, RECIPE)

    assert (state.newest is not None, state.base, state.answer(ROWS)) == (True, None, None)


def test_a_result_is_current_for_exactly_its_items(store: Store) -> None:
    _commit(store)
    state = _state(store, RECIPE)
    changed = Items(LEFT.keys.with_columns(sha256=pl.Series(["1", "9"])), LEFT.vectors)
    fewer = Items(LEFT.keys.head(1), LEFT.vectors[:1])

    assert state.is_current(LEFT, RIGHT)
    assert not state.is_current(changed, RIGHT)
    assert not state.is_current(fewer, RIGHT)
    assert not state.is_current(LEFT, LEFT)


@pytest.mark.parametrize("role", [ROWS, LEFT_ITEMS, RIGHT_ITEMS])
def test_damaged_files_are_not_built_on(store: Store, role: str) -> None:
    _damage(store, _commit(store), role)
    state = _state(store, RECIPE)

    assert state.answer(ROWS) is None


@pytest.mark.parametrize("role", [ROWS, LEFT_ITEMS, RIGHT_ITEMS])
def test_a_result_with_a_file_that_is_gone_is_not_current(store: Store, role: str) -> None:
    _damage(store, _commit(store), role).unlink()
    state = _state(store, RECIPE)

    assert not state.is_current(LEFT, RIGHT)
    assert state.answer(ROWS) is None


def test_a_role_that_was_never_kept_is_no_answer(store: Store) -> None:
    _commit(store)

    assert _state(store, RECIPE).answer("lists") is None


def test_a_result_of_older_inputs_does_not_replace_one_of_newer(store: Store) -> None:
    slow = _state(store, RECIPE)
    newer = _commit(store, {"shop/index": 5, "shop/embeddings": 2})

    kept = slow.commit(
        [slow.table.write_rows(PAIRS.head(0))], LEFT, RIGHT, {"shop/index": 4, "shop/embeddings": 2}
    )

    assert kept is None
    assert _table(store).versions() == [newer.version]


def test_a_result_of_the_same_or_newer_inputs_is_committed(store: Store) -> None:
    _commit(store, {"shop/index": 5})

    same = _commit(store, {"shop/index": 5})
    newer = _commit(store, {"shop/index": 6})

    assert [same.version, newer.version] == [2, 3]
    assert newer.inputs == {"shop/index": 6}
    assert RECIPE.items() <= newer.properties.items()


def test_without_an_earlier_answer_pairs_are_computed(store: Store) -> None:
    expected = compute(LEFT, RIGHT, Question(k=1))

    assert updated(None, LEFT, RIGHT, Question(k=1)).equals(expected)
    before = Answer(expected, LEFT.keys, RIGHT.keys)
    assert updated(before, LEFT, RIGHT, Question(k=1)).equals(expected)


def _table(store: Store) -> Table:
    return store.table("matches/pair")


def _state(
    store: Store, recipe: Mapping[str, object], of_lists: Collection[str] | None = None
) -> State:
    return State.of(_table(store), _table(store).latest(), recipe, of_lists)


def _commit(store: Store, inputs: Mapping[str, int] | None = None) -> Commit:
    state = _state(store, RECIPE)
    rows = [state.table.write_rows(PAIRS)]
    commit = state.commit(rows, LEFT, RIGHT, inputs or {"shop/index": 1})
    assert commit is not None
    return commit


def _damage(store: Store, commit: Commit, role: str) -> Path:
    file = commit.file_with_role(role)
    assert file is not None
    return flip_bit(store, _table(store), file)
