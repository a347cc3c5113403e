"""Which files of vectors an update of a match table or a graph opens."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.index.opening import INDEX
from imgsim_assets.index.stage import index_table, vectors_of
from imgsim_assets.similarity import items, vector_blocks
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import GraphSettings, MatchSettings
from imgsim_assets.similarity.stored_rows import ScratchRows
from imgsim_assets.storage.commit import ROWS, DataFile
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table_files import TableFiles
from imgsim_assets_tests.support.blocks import small_blocks
from imgsim_assets_tests.support.catalogs import THUMBNAIL, embed_shards, fill, indexed, tiny
from imgsim_assets_tests.support.damage import flip_bit, recompute_with_rounding_difference

SETTINGS = [MatchSettings(mode="all", threshold=0.3), MatchSettings(mode="top_k", k=2, threshold=0)]


@pytest.fixture(params=SETTINGS, ids=lambda settings: settings.mode)
def matched(
    store: Store, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> MatchStage:
    """Matches of two catalogs of 12 items, whose vectors came in three files each."""
    # Nothing stays in memory, as of large catalogs.
    monkeypatch.setattr(vector_blocks, "vectors_in_memory", lambda: 0)
    for name, first in (("left", 0), ("right", 100)):
        for count in (4, 8, 12):
            indexed(store, name, {f"{n:02d}": tiny(first + n) for n in range(count)})
    stage = MatchStage(store, "pair", request.param, left="left", right="right")
    stage.run()
    return stage


@contextmanager
def _opened(store: Store) -> Iterator[Counter[str]]:
    """How often each table had a file of vectors opened."""
    opened: Counter[str] = Counter()
    read_bytes, local_copy = TableFiles.read_bytes, TableFiles.local_copy

    def noted_bytes(table: TableFiles, file: DataFile) -> bytes:
        if "/vectors/" in table.name and file.role == ROWS:
            opened[table.name.split("/")[0]] += 1
        return read_bytes(table, file)

    def noted_copy(table: TableFiles, file: DataFile, *, verify: bool = True) -> object:
        opened[table.name] += 1
        return local_copy(table, file, verify=verify)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TableFiles, "read_bytes", noted_bytes)
        patch.setattr(TableFiles, "local_copy", noted_copy)
        yield opened


def _change(store: Store, name: str, first: int) -> None:
    images = {f"{n:02d}": tiny(first + n) for n in range(12)}
    indexed(store, name, images | {"05": tiny(first + 50)})


def test_changed_left_rows_are_read_without_the_others(store: Store, matched: MatchStage) -> None:
    _change(store, "left", 0)

    with _opened(store) as opened:
        assert matched.run().incremental

    assert opened == {"left": 1, "right/index": 1}


def test_changed_right_rows_are_read_with_the_index_of_the_left_side(
    store: Store, matched: MatchStage
) -> None:
    _change(store, "right", 100)

    with _opened(store) as opened:
        assert matched.run().incremental

    assert opened == {"left/index": 1, "right/index": 1}


def test_changed_right_rows_are_read_with_each_left_file_once_while_the_left_index_is_older(
    store: Store, matched: MatchStage
) -> None:
    images = {f"{n:02d}": tiny(n) for n in range(11)}
    embed_shards(store, "left", THUMBNAIL, fill(store, "left", images))
    _change(store, "right", 100)

    with _opened(store) as opened:
        assert matched.run().incremental

    assert opened == {"left": 3, "right/index": 1}


def test_an_index_of_earlier_embeddings_that_were_deleted_is_not_read(store: Store) -> None:
    indexed(store, "left", {"a": tiny(1), "b": tiny(2)})
    index = index_table(store, "left").latest()
    assert index is not None
    shutil.rmtree(Path(store.url) / "left" / "embeddings")
    embed_shards(store, "left", THUMBNAIL, fill(store, "left", {"a": tiny(2), "b": tiny(1)}))
    embeddings, images = items.from_embeddings(store, "left")
    vectors = VectorTable(store, "left", embeddings.properties[FINGERPRINT])

    read = images.vectors

    assert index.inputs == {"embeddings": embeddings.version}
    np.testing.assert_array_equal(read, vectors_of(vectors, images.keys["sha256"]))


def test_a_damaged_left_index_is_passed_over(store: Store, matched: MatchStage) -> None:
    index = index_table(store, "left")
    commit = index.latest()
    assert commit is not None
    flip_bit(store, index, commit.files_with_role(INDEX)[0])
    _change(store, "right", 100)

    with _opened(store) as opened:
        assert matched.run().incremental

    assert opened == {"left": 3, "left/index": 1, "right/index": 1}


def test_a_left_index_of_which_a_file_cannot_be_read_is_passed_over(
    store: Store, matched: MatchStage
) -> None:
    expected = items.from_embeddings(store, "left")[1].vectors
    paths = [path for path in (Path(store.url) / "left/index").rglob("*") if path.is_file()]
    assert {path.parent.name for path in paths} >= {"_commits", "data"}
    for path in paths:
        data = path.read_bytes()
        path.write_bytes(b"{")
        np.testing.assert_array_equal(items.from_embeddings(store, "left")[1].vectors, expected)
        path.unlink()
        path.mkdir()
        np.testing.assert_array_equal(items.from_embeddings(store, "left")[1].vectors, expected)
        path.rmdir()
        path.write_bytes(data)


def test_recomputed_vectors_are_not_read_from_an_index_of_earlier_ones(
    store: Store, matched: MatchStage
) -> None:
    (name,) = (name for name in store.table_names() if name.startswith("left/vectors/"))
    vectors = VectorTable(store, "left", name.split("/")[-1])
    recompute_with_rounding_difference(store, vectors)
    embeddings, images = items.from_embeddings(store, "left")

    read = images.vectors

    index = index_table(store, "left").latest()
    assert index is not None
    assert index.inputs == {"embeddings": embeddings.version}
    np.testing.assert_array_equal(read, vectors_of(vectors, images.keys["sha256"]))


def test_changes_of_both_sides_read_each_file_once(store: Store, matched: MatchStage) -> None:
    _change(store, "left", 0)
    _change(store, "right", 100)

    with _opened(store) as opened:
        assert matched.run().incremental

    # The file of the changed left row, and the index with the others.
    assert opened == {"left": 1, "left/index": 1, "right/index": 1}


def test_changed_rows_of_a_graph_open_the_index_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_blocks, "vectors_in_memory", lambda: 0)
    indexed(store, "left", {f"{n:02d}": tiny(n) for n in range(12)})
    stage = GraphStage(store, "left", GraphSettings(k=2))
    stage.run()
    _change(store, "left", 0)

    with _opened(store) as opened:
        assert stage.run().incremental

    assert opened == {"left/index": 1}


def test_no_vectors_of_an_updated_graph_are_copied(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {f"{n:02d}": [tiny(n), tiny(20 + n)] for n in range(12)}
    indexed(store, "left", images)
    stage = GraphStage(store, "left", GraphSettings(k=2))
    with small_blocks():
        stage.run()
        indexed(store, "left", images | {"more": [tiny(50)]})
        # Groups of a few left rows are compared with the changed one, each on its own.
        monkeypatch.setattr(vector_blocks, "ScratchRows", _CountedScratch)
        _CountedScratch.sizes.clear()
        assert stage.run().incremental

    # The new row, as a left one and as a right one.
    assert _CountedScratch.sizes == [1, 1]


class _CountedScratch(ScratchRows[np.float32]):
    """Notes how many rows each scratch file has."""

    sizes: ClassVar[list[int]] = []

    def __init__(self, count: int, dim: int, dtype: type[np.float32]) -> None:
        self.sizes.append(count)
        super().__init__(count, dim, dtype)


def test_a_damaged_file_that_is_not_needed_stops_no_update(
    store: Store, matched: MatchStage
) -> None:
    _damage(store, 0)
    _change(store, "left", 0)

    assert matched.run().incremental


def test_a_damaged_file_of_changed_rows_is_named(store: Store, matched: MatchStage) -> None:
    _change(store, "left", 0)
    damaged = _damage(store, -1)

    with pytest.raises(StoreError, match="materialize left/embeddings again") as raised:
        matched.run()
    assert damaged.name in str(raised.value)


def _damage(store: Store, number: int) -> Path:
    (name,) = (name for name in store.table_names() if name.startswith("left/vectors/"))
    table = store.table(name)
    commit = table.latest()
    assert commit is not None
    return flip_bit(store, table, commit.files_with_role()[number])
