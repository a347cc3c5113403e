from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
import polars as pl
import pytest

from imgsim_assets.similarity.block_join import Lists, join
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.materialized import (
    LEFT_ITEMS,
    NEIGHBOR_LISTS,
    RIGHT_ITEMS,
    Computed,
    MaterializedResult,
)
from imgsim_assets.similarity.neighbor_lists import neighbor_lists, top_pairs
from imgsim_assets.similarity.references import References
from imgsim_assets.similarity.updated_lists import updated_lists
from imgsim_assets.storage.commit import Commit, DataFile
from imgsim_assets.storage.id_blocks import ALL_IDS
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.blocks import small_blocks
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.vectors import noise

POOL = noise(40, 4, seed=1)
IDS = [f"item {number:02d}" for number in range(20)]
LEFT, RIGHT = list(range(20)), list(range(20, 40))
SPEC = JoinSpec(k=2)
RECIPE = {"method": "exact"}


@pytest.fixture(autouse=True)
def _several_blocks() -> object:
    with small_blocks():
        yield


def test_only_the_block_of_a_changed_item_is_written(store: Store) -> None:
    before = _updated(store, LEFT, RIGHT)

    after = _updated(store, [*LEFT[:7], 20, *LEFT[8:]], RIGHT)

    for role in (NEIGHBOR_LISTS, "left_items"):
        old, new = (_paths(commit, role) for commit in (before, after))
        assert len(new) == len(old) > 4
        assert len(set(new) - set(old)) == 1
    assert _paths(after, "right_items") == _paths(before, "right_items")


def test_a_damaged_block_is_computed_again_and_the_others_are_kept(store: Store) -> None:
    before = _updated(store, LEFT, RIGHT)
    flip_bit(store, store.table("matches/pair"), before.files_with_role(NEIGHBOR_LISTS)[2])

    after = _updated(store, LEFT, RIGHT)

    old, new = (_paths(commit, NEIGHBOR_LISTS) for commit in (before, after))
    assert [a == b for a, b in zip(old, new, strict=True)].count(False) == 1
    assert _lists(store, after).equals(neighbor_lists(_items(LEFT), _items(RIGHT), SPEC))


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("role", [LEFT_ITEMS, RIGHT_ITEMS])
def test_a_damaged_block_of_items_costs_its_own_comparisons(
    store: Store, monkeypatch: pytest.MonkeyPatch, role: str, changed: bool
) -> None:
    before = _updated(store, LEFT, RIGHT)
    file = before.files_with_role(role)[2]
    lost = store.table("matches/pair").read_file(file)["id"]
    flip_bit(store, store.table("matches/pair"), file)
    left, right = list(LEFT), list(RIGHT)
    if changed:  # an item of the damaged block, and lists of other blocks have it
        (left if role == LEFT_ITEMS else right)[IDS.index(lost[0])] = 39
    compared = []

    def counted(rows: JoinSide, references: References, *arguments: Any) -> Lists:
        compared.append(len(rows) * len(references))
        return join(rows, references, *arguments)

    monkeypatch.setattr("imgsim_assets.similarity.neighbor_lists.join", counted)
    after = _updated(store, left, right)

    assert 0 < sum(compared) < len(IDS) ** 2 / 2
    expected = neighbor_lists(_items(left), _items(right), SPEC)
    assert top_pairs(_lists(store, after), SPEC).equals(top_pairs(expected, SPEC))


def test_lists_of_one_file_are_read_by_blocks(store: Store) -> None:
    result = _result(store)
    lists = neighbor_lists(_items(LEFT), _items(RIGHT), SPEC)
    files = [result.table.write_rows(lists, role=NEIGHBOR_LISTS)]
    result.commit(files, _items(LEFT), _items(RIGHT), {})

    after = _updated(store, [*LEFT[:7], 20, *LEFT[8:]], RIGHT)

    expected = neighbor_lists(_items([*LEFT[:7], 20, *LEFT[8:]]), _items(RIGHT), SPEC)
    assert _lists(store, after).equals(expected)


def _items(numbers: list[int]) -> Items:
    keys = pl.DataFrame({"id": IDS, "sha256": [f"{number:064d}" for number in numbers]})
    return Items(keys, POOL[np.array(numbers)])


def _result(store: Store) -> MaterializedResult:
    table = store.table("matches/pair")
    return MaterializedResult.for_recipe(table, table.latest(), RECIPE)


def _updated(store: Store, left: list[int], right: list[int]) -> Commit:
    result, sides = _result(store), (_items(left), _items(right))

    def compute() -> Computed:
        cached = result.cached_lists()
        lists = updated_lists(
            result, *sides, SPEC, attrgetter("block"), role=NEIGHBOR_LISTS, cached=cached
        )
        assert lists.incremental == (cached is not None)
        return Computed(lists.files, lists.incremental)

    commit = result.commit(compute().files, *sides, {})
    assert commit is not None
    return commit


def _paths(commit: Commit, role: str) -> list[str]:
    files: list[DataFile] = commit.files_with_role(role)
    return [file.path for file in files]


def _lists(store: Store, commit: Commit) -> pl.DataFrame:
    result = MaterializedResult.for_recipe(store.table("matches/pair"), commit, RECIPE)
    cached = result.cached_lists()
    lists = cached.of_block(ALL_IDS) if cached is not None else None
    assert lists is not None
    return lists
