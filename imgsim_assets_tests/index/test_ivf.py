from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.index.entries import NO_ENTRIES
from imgsim_assets.index.ivf import IvfIndex, list_count, training_count
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.index.stage import IndexStage, open_index
from imgsim_assets.index.writer import write_flat
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, embed_shards, fill, indexed, tiny
from imgsim_assets_tests.support.index_files import Content, updated, vector_table
from imgsim_assets_tests.support.vectors import families, noise

ROWS = families(1200, 16, seed=1)
KEYS = [(f"i{row:05d}", 0) for row in range(2000)]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> VectorTable:
    """The vectors of ROWS."""
    return vector_table(tmp_path_factory.mktemp("store"), ROWS)


def _content(rows: Iterable[int]) -> Content:
    return {KEYS[row]: row for row in rows}


@pytest.mark.parametrize("nprobe", [10_000, None], ids=["ivf", "flat"])
def test_ivf_with_all_probes_equals_brute_force(vectors: VectorTable, nprobe: int | None) -> None:
    index = updated(None, vectors, _content(range(1200)), nprobe)
    scores = ROWS[:50] @ ROWS.T

    _, similarity = index.search(ROWS[:50], 10)
    query, positions, products = index.range_search(ROWS[:50], 0.9)

    np.testing.assert_allclose(similarity, -np.sort(-scores, axis=1)[:, :10], atol=1e-6)
    clear = np.abs(scores - 0.9) > 1e-6
    is_pair = np.zeros(scores.shape, dtype=bool)
    is_pair[query, positions] = True
    np.testing.assert_array_equal(is_pair[clear], (scores >= 0.9)[clear])
    np.testing.assert_allclose(products, scores[query, positions], atol=1e-6)
    np.testing.assert_array_equal(np.lexsort((positions, -products, query)), np.arange(len(query)))


@pytest.mark.parametrize("nprobe", [10_000, None], ids=["ivf", "flat"])
def test_updated_index_has_the_vectors_of_its_images(
    vectors: VectorTable, nprobe: int | None
) -> None:
    index = updated(None, vectors, _content(range(1000)), nprobe)
    rows = [row for row in range(1200) if row % 3]

    index = updated(index, vectors, _content(rows), nprobe)

    np.testing.assert_array_equal(index.vectors(), ROWS[rows])
    np.testing.assert_array_equal(
        index.vectors_at(np.array([5, 0, 700, 5])), ROWS[np.array(rows)[[5, 0, 700, 5]]]
    )
    assert index.vectors_at(np.empty(0, np.int64)).shape == (0, 16)
    positions, similarity = index.search(ROWS[rows[-40:]], 1)
    np.testing.assert_allclose(similarity[:, 0], 1, atol=1e-6)
    np.testing.assert_array_equal(index.vectors_at(positions[:, 0]), ROWS[rows[-40:]])


def test_recall_rises_with_nprobe(tmp_path: Path) -> None:
    rows = noise(2000, 24, seed=2)
    table, content = vector_table(tmp_path, rows), _content(range(2000))
    recalls = [updated(None, table, content, nprobe).recall(sample=200) for nprobe in (1, 8, 9999)]

    assert recalls == sorted(recalls)
    assert recalls[0] < 0.9
    assert recalls[2] == 1.0
    assert updated(None, table, content).recall(sample=100) == 1.0


def test_recall_does_not_depend_on_the_parts(
    vectors: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = updated(None, vectors, _content(range(1200)), 1)
    recall = index.recall(sample=100)
    monkeypatch.setattr("imgsim_assets.index.vector_file.part_bytes", lambda: 7 * 64)

    assert 0 < recall < 1
    assert index.recall(sample=100) == recall


def test_recall_of_a_single_item_is_one(vectors: VectorTable) -> None:
    assert updated(None, vectors, _content(range(1)), 4).recall() == 1.0


def test_ivf_needs_retraining_after_large_growth(vectors: VectorTable) -> None:
    index = updated(None, vectors, _content(range(60)), 4)
    assert not index.needs_retraining

    grown = updated(index, vectors, _content(range(1200)), 4)

    assert grown.needs_retraining


def test_sample_that_trains_grows_with_the_lists() -> None:
    assert [training_count(count) for count in (1, 39, 60_000)] == [1, 39, 60_000]
    assert training_count(1_000_000) == 64 * list_count(1_000_000) == 256_000


def test_flat_file_is_rejected_as_ivf(tmp_path: Path) -> None:
    write_flat(tmp_path / "index.faiss", 4, 0, [])

    with pytest.raises(StoreError, match="is a IndexIDMap2, not IndexIVFFlat"):
        IvfIndex.load(tmp_path / "index.faiss", NO_ENTRIES.all(), 0)


def test_index_kind_follows_the_settings(store: Store) -> None:
    images = {f"i{seed}": tiny(seed) for seed in range(8)}
    indexed(store, "shop", images)
    ivf = IndexSettings(kind="ivf", min_items=6, nprobe=4)

    kinds = []
    for settings in (IndexSettings(), ivf, ivf, IndexSettings(kind="ivf", min_items=12)):
        report = IndexStage(store, "shop", settings).run()
        _, index = open_index(store, "shop")
        kinds.append((report.kind, type(index).__name__, report.rebuilt, len(index)))

    assert kinds == [
        ("flat", "FlatIndex", False, 8),
        ("ivf", "IvfIndex", True, 8),
        ("ivf", "IvfIndex", False, 8),
        ("flat", "FlatIndex", True, 8),
    ]


def test_index_keeps_its_kind_without_settings(store: Store) -> None:
    settings = IndexSettings(kind="ivf", min_items=1, nprobe=3)
    indexed(store, "shop", {f"i{seed}": tiny(seed) for seed in range(8)})
    IndexStage(store, "shop", settings).run()
    embed_shards(
        store, "shop", THUMBNAIL, fill(store, "shop", {f"i{n}": tiny(n) for n in range(9)})
    )

    report = IndexStage(store, "shop").run()

    assert (report.kind, report.rebuilt, report.added) == ("ivf", False, 1)
    assert not IndexStage(store, "shop", settings).run().changed


def test_index_kind_has_hysteresis_around_min_items(store: Store) -> None:
    settings = IndexSettings(kind="ivf", min_items=8, nprobe=4)

    kinds = []
    for count in (8, 6, 7, 5, 7, 8):
        images = {f"i{seed}": tiny(seed) for seed in range(count)}
        embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", images))
        report = IndexStage(store, "shop", settings).run()
        kinds.append((report.kind, report.rebuilt))

    assert kinds == [
        ("ivf", True),
        ("ivf", False),
        ("ivf", False),
        ("flat", True),
        ("flat", False),
        ("ivf", True),
    ]


def test_ivf_is_updated_incrementally(store: Store) -> None:
    settings = IndexSettings(kind="ivf", min_items=1, nprobe=100)
    for seeds in (range(8), range(2, 12)):
        embed_shards(
            store, "shop", THUMBNAIL, fill(store, "shop", {f"i{n}": tiny(n) for n in seeds})
        )
        report = IndexStage(store, "shop", settings).run()

    _, index = open_index(store, "shop")
    assert index.entries["id"].to_list() == sorted(f"i{seed}" for seed in range(2, 12))
    assert (report.added, report.removed, report.rebuilt) == (4, 2, False)
