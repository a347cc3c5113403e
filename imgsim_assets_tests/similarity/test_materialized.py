from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.materialized import LEFT_ITEMS, RIGHT_ITEMS, MaterializedResult
from imgsim_assets.similarity.neighbor_lists import CachedNeighborLists, neighbor_lists
from imgsim_assets.storage.commit import ROWS, Commit, DataFile, PendingCommit
from imgsim_assets.storage.id_blocks import ALL_IDS, id_blocks
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.vectors import noise

RECIPE = {"mode": "best", "k": None, "threshold": 0.5}
LEFT = Items(pl.DataFrame({"id": ["a", "b"], "sha256": ["1", "2"]}), noise(2, 3, 0))
CHANGED = Items(LEFT.keys.with_columns(sha256=pl.Series(["1", "9"])), LEFT.vectors)
RIGHT = Items(pl.DataFrame({"id": ["x"], "sha256": ["3"]}), noise(1, 3, 1))
RIGHT_IMAGE = Items(pl.DataFrame({"id": ["x"], "image": [0], "sha256": ["3"]}), noise(1, 3, 1))
PAIRS = neighbor_lists(LEFT, RIGHT, JoinSpec())


def test_table_without_a_version_has_nothing_to_reuse(store: Store) -> None:
    result = _result(store, RECIPE)

    assert (result.latest, result.current, result.cached_lists(ROWS)) == (None, None, None)
    assert not result.is_up_to_date(LEFT, RIGHT)


def test_result_of_the_same_recipe_is_reusable(store: Store) -> None:
    commit = _commit(store)

    result = _result(store, RECIPE)

    assert result.current == result.latest == commit
    cached = result.cached_lists(ROWS)
    assert cached is not None
    assert _lists(cached).equals(PAIRS)
    assert cached.left.equals(LEFT.images)
    assert cached.right.equals(RIGHT.images)


@pytest.mark.parametrize(
    ("images", "keeps"),
    [
        ([(0, "1"), (1, "1"), (2, "2")], True),
        ([(0, "1"), (1, "1"), (2, "3")], True),
        ([(0, "1"), (1, "2")], False),
        ([(0, "2"), (1, "1"), (2, "1")], False),
    ],
)
def test_rows_are_kept_while_images_of_an_item_have_their_numbers(
    store: Store, images: Sequence[tuple[int, str]], keeps: bool
) -> None:
    before = _item([(0, "1"), (1, "1"), (2, "2")])
    result = _result(store, RECIPE)
    result.commit([result.table.write_rows(PAIRS)], before, RIGHT_IMAGE, {})

    kept = _result(store, RECIPE).keeps_rows(_item(images), RIGHT_IMAGE, are_means=False)

    assert kept == keeps


@pytest.mark.parametrize(
    "recipe", [{**RECIPE, "threshold": 0.6}, {**RECIPE, "k": 1}, {**RECIPE, "fingerprint": "f"}]
)
def test_result_of_another_recipe_is_not_reusable(
    store: Store, recipe: Mapping[str, object]
) -> None:
    commit = _commit(store)

    result = _result(store, recipe)

    assert (result.latest, result.current) == (commit, None)
    assert result.cached_lists(ROWS) is None
    assert not result.is_up_to_date(LEFT, RIGHT)


def test_lists_are_reusable_when_only_other_keys_of_the_recipe_changed(
    store: Store,
) -> None:
    commit = _commit(store)

    other = _result(store, {**RECIPE, "mode": "all"}, list_keys=("k", "threshold"))
    other_threshold = _result(store, {**RECIPE, "threshold": 0.6}, list_keys=("k", "threshold"))

    assert (other.current, other.reusable) == (None, commit)
    assert not other.is_up_to_date(LEFT, RIGHT)
    cached = other.cached_lists(ROWS)
    assert cached is not None
    assert _lists(cached).equals(PAIRS)
    assert (other_threshold.reusable, other_threshold.cached_lists(ROWS)) == (None, None)


def test_rows_without_the_complete_column_are_complete_lists(store: Store) -> None:
    result = _result(store, RECIPE)
    rows = PAIRS.drop("complete").with_columns(rank=pl.lit(1))
    result.commit([result.table.write_rows(rows)], LEFT, RIGHT, {"images": 1})

    cached = _result(store, RECIPE).cached_lists(ROWS)

    assert cached is not None
    assert _lists(cached).equals(PAIRS)


def test_lists_of_an_older_format_are_not_reusable(store: Store) -> None:
    table, written = _table(store), _commit(store)
    table.commit(lambda _: PendingCommit(written.files, written.inputs, RECIPE))

    result = _result(store, RECIPE)

    assert (result.latest is not None, result.current, result.cached_lists(ROWS)) == (
        True,
        None,
        None,
    )


def test_result_is_up_to_date_for_exactly_its_items(store: Store) -> None:
    _commit(store)
    result = _result(store, RECIPE)
    fewer = Items(LEFT.keys.head(1), LEFT.vectors[:1])

    assert result.is_up_to_date(LEFT, RIGHT)
    assert not result.is_up_to_date(CHANGED, RIGHT)
    assert not result.is_up_to_date(fewer, RIGHT)
    assert not result.is_up_to_date(LEFT, LEFT)


def test_only_recorded_items_that_have_changed_are_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _commit(store)
    result, written = _result(store, RECIPE), []
    write_rows = Table.write_rows

    def counted(self: Table, rows: pl.DataFrame, **options: Any) -> DataFile:
        written.append(options.get("role", ROWS))
        return write_rows(self, rows, **options)

    monkeypatch.setattr(Table, "write_rows", counted)
    after = result.commit([], CHANGED, RIGHT, {"images": 2})

    assert after is not None
    assert written == [LEFT_ITEMS]
    assert after.files_with_role(RIGHT_ITEMS) == before.files_with_role(RIGHT_ITEMS)
    assert _result(store, RECIPE).is_up_to_date(CHANGED, RIGHT)


def test_items_that_are_known_to_be_recorded_are_not_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _commit(store)
    result, read = _result(store, RECIPE), []
    assert not result.is_up_to_date(CHANGED, RIGHT)
    of_rows = RowBlocks.read

    def noted(self: RowBlocks, *span: Any) -> pl.DataFrame:
        read.append(self)
        return of_rows(self, *span)

    monkeypatch.setattr(RowBlocks, "read", noted)
    id_blocks(RIGHT.recorded)
    read.clear()
    after = result.commit([], CHANGED, RIGHT, {"images": 2})

    assert after is not None
    assert after.files_with_role(RIGHT_ITEMS) == before.files_with_role(RIGHT_ITEMS)
    assert CHANGED.recorded in read
    assert RIGHT.recorded not in read


@pytest.mark.parametrize("role", [ROWS, LEFT_ITEMS, RIGHT_ITEMS])
def test_damaged_files_are_not_reusable(store: Store, role: str) -> None:
    _damage(store, _commit(store), role)
    result = _result(store, RECIPE)

    assert _is_unusable(result.cached_lists(ROWS))


@pytest.mark.parametrize("role", [ROWS, LEFT_ITEMS, RIGHT_ITEMS])
def test_result_with_a_missing_file_is_not_up_to_date(store: Store, role: str) -> None:
    _damage(store, _commit(store), role).unlink()
    result = _result(store, RECIPE)

    assert not result.is_up_to_date(LEFT, RIGHT)
    assert _is_unusable(result.cached_lists(ROWS))


def test_missing_role_has_no_cached_lists(store: Store) -> None:
    _commit(store)

    assert _result(store, RECIPE).cached_lists() is None


def test_result_of_older_inputs_does_not_replace_a_newer_one(store: Store) -> None:
    slow = _result(store, RECIPE)
    newer = _commit(store, {"shop/index": 5, "shop/embeddings": 2})

    commit = slow.commit(
        [slow.table.write_rows(PAIRS.head(0))], LEFT, RIGHT, {"shop/index": 4, "shop/embeddings": 2}
    )

    assert commit is None
    assert _table(store).versions() == [newer.version]


def test_result_of_the_same_or_newer_inputs_is_committed(store: Store) -> None:
    _commit(store, {"shop/index": 5})

    same = _commit(store, {"shop/index": 5})
    newer = _commit(store, {"shop/index": 6})

    assert [same.version, newer.version] == [2, 3]
    assert newer.inputs == {"shop/index": 6}
    assert RECIPE.items() <= newer.properties.items()


def test_lists_are_equal_with_and_without_cached_lists(store: Store) -> None:
    expected = neighbor_lists(LEFT, RIGHT, JoinSpec(k=1))

    assert neighbor_lists(LEFT, RIGHT, JoinSpec(k=1), None).equals(expected)
    before = CachedNeighborLists(expected, LEFT.images, RIGHT.images)
    assert neighbor_lists(LEFT, RIGHT, JoinSpec(k=1), before).equals(expected)


def _table(store: Store) -> Table:
    return store.table("matches/pair")


def _item(images: Sequence[tuple[int, str]]) -> Items:
    """An item with images by number and sha256."""
    numbers, sha256 = zip(*images, strict=True)
    keys = pl.DataFrame({"id": ["a"] * len(images), "image": numbers, "sha256": sha256})
    return Items(keys, noise(len(images), 3, 0))


def _result(
    store: Store, recipe: Mapping[str, object], list_keys: Collection[str] | None = None
) -> MaterializedResult:
    return MaterializedResult.for_recipe(_table(store), _table(store).latest(), recipe, list_keys)


def _commit(store: Store, inputs: Mapping[str, int] | None = None) -> Commit:
    result = _result(store, RECIPE)
    rows = [result.table.write_rows(PAIRS)]
    commit = result.commit(rows, LEFT, RIGHT, inputs or {"shop/index": 1})
    assert commit is not None
    return commit


def _damage(store: Store, commit: Commit, role: str) -> Path:
    file = commit.file_with_role(role)
    assert file is not None
    return flip_bit(store, _table(store), file)


def _is_unusable(cached: CachedNeighborLists | None) -> bool:
    return cached is None or cached.of_block(ALL_IDS) is None


def _lists(cached: CachedNeighborLists) -> pl.DataFrame:
    lists = cached.of_block(ALL_IDS)
    assert lists is not None
    return lists
