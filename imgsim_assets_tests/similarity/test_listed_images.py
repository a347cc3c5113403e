"""Ids and hashes of a large catalog are read once for the lists of many rows, not once for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets.similarity import neighbor_lists
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.listed_images import ListedImages, row_of_each
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings, MatchSettings
from imgsim_assets.storage import id_blocks, row_blocks, stored_rows
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.vector_catalog import write_catalog, write_ledger
from imgsim_assets_tests.support.vectors import families, noise


def _matches(**settings: Any) -> Callable[[Store], Any]:
    return lambda store: MatchStage(
        store, "pair", MatchSettings(**settings), left="shop", right="other"
    )


def _graph(**settings: Any) -> Callable[[Store], Any]:
    return lambda store: GraphStage(store, "shop", GraphSettings(k=5, **settings))


def _groups(**settings: Any) -> Callable[[Store], Any]:
    return lambda store: GroupStage(store, "shop", GroupSettings(threshold=0.9, **settings))


_STAGES = {
    "all matches": _matches(mode="all", threshold=0.8),
    "best matches": _matches(mode="top_k", k=3, threshold=0.5),
    "mutual matches": _matches(mode="mutual", threshold=0.5),
    "means": _matches(mode="all", threshold=0.8, compare="mean_best"),
    "graph": _graph(),
    "graph of means": _graph(threshold=0.8, compare="mean_best"),
    "approximate graph": _graph(method="approximate"),
    "groups": _groups(),
}


@pytest.mark.parametrize(
    "name",
    [name if name == "graph" else pytest.param(name, marks=pytest.mark.slow) for name in _STAGES],
)
def test_an_update_of_twice_the_rows_reads_twice_the_blocks_of_keys(
    tmp_path: Path, name: str
) -> None:
    reads = []
    for rows in (400, 800):
        vectors = families(2 * rows, 8, seed=1)
        changed = range(5, rows, 50)
        with _small_key_blocks():
            store = Store.open(tmp_path / str(rows))
            write_catalog(store, "shop", vectors[:rows])
            write_catalog(store, "other", vectors[rows:])
            write_ledger(store, "shop", rows)
            _STAGES[name](store).run()
            new = vectors[:rows].copy()
            new[changed] = noise(len(changed), 8, seed=2)
            write_catalog(store, "shop", new, changed)
            with _counted_reads() as counted:
                report = _STAGES[name](store).run()
        assert report.changed
        assert report.incremental
        reads.append(counted.total())

    # The factor would be larger where each block of lists read all keys of right rows.
    assert reads[1] < 2.2 * reads[0]


def test_rows_are_read_once_for_each_group_of_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    with _small_key_blocks():
        items = _items(200)
        searched: list[int] = []
        read = Items.images_of

        def noted(self: Items, row_ids: pl.Series) -> pl.DataFrame:
            searched.append(len(row_ids))
            return read(self, row_ids)

        monkeypatch.setattr(Items, "images_of", noted)
        ids = [items.rows["id"][:50], items.rows["id"][40:120]]
        listed = ListedImages(items, ids)

        assert not searched
        for some in ids:
            found = listed.images_of(some.sample(fraction=0.5, seed=1))
            assert found.equals(read(items, found["row_id"]))
            assert row_of_each(listed, some).tolist() == row_of_each(items, some).tolist()
        assert searched == [130, *[len(some) for some in ids]]


def test_spans_of_listed_items_are_those_of_all() -> None:
    with _small_key_blocks():
        items = _items(60)
        listed = ListedImages(items, [items.rows["id"][10:30]])
        ids = items.keys["id"][10:30].unique().sort(descending=True)

        for found, expected in zip(listed.spans(ids), items.spans(ids), strict=True):
            assert found.tolist() == expected.tolist()


def test_images_of_rows_are_those_of_one_frame() -> None:
    with _small_key_blocks():
        items = _items(90)
        all_ids = items.rows["id"]
        for numbers in ([], [0], [89], [3, 17, 18, 50], list(range(90))):
            found = items.images_of(all_ids.gather(numbers).reverse())

            assert found["row"].to_list() == numbers
            assert found["row_id"].equals(all_ids.gather(numbers), check_names=False)
            assert found.select(items.keys.columns).equals(items.keys[numbers])


def _items(count: int) -> Items:
    """Items of one, two or three images."""
    numbers = [(item, image) for item in range(count) for image in range(1 + item % 3)][:count]
    keys = pl.DataFrame(
        {
            "id": [f"item{item:04d}" for item, _ in numbers],
            "image": pl.Series([image for _, image in numbers], dtype=pl.Int32),
            "sha256": [f"{item:04d} {image}" for item, image in numbers],
        }
    )
    return Items(RowBlocks.collect([keys]), noise(count, 4, seed=1))


@contextmanager
def _small_key_blocks() -> Iterator[None]:
    """Keys are in scratch files of small blocks, and lists in files of a few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_rows, "rows_in_memory", lambda: 0)
        patch.setattr(row_blocks, "BLOCK_ROWS", 64)
        patch.setattr(id_blocks, "MIN_ROWS", 16)
        patch.setattr(id_blocks, "MAX_ROWS", 96)
        patch.setattr(id_blocks, "MEAN_ROWS", 32)
        patch.setattr(neighbor_lists, "pairs_in_memory", lambda: 1 << 20)
        yield


@contextmanager
def _counted_reads() -> Iterator[Counter[int]]:
    """How often each block of the scratch files is read, by the number of its first row."""
    reads: Counter[int] = Counter()
    read = stored_rows.ScratchRows._read

    def counted(self: Any, block: Any, columns: Any) -> pl.DataFrame:
        reads[block.start] += 1
        return read(self, block, columns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_rows.ScratchRows, "_read", counted)
        yield reads
