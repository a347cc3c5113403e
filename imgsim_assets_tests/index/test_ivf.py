from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from imgsim_assets.errors import StoreError
from imgsim_assets.index.flat import FlatIndex
from imgsim_assets.index.ivf import IvfIndex
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.index.stage import IndexStage, open_index
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, embed_shards, fill, indexed, tiny
from imgsim_assets_tests.support.vectors import Floats, families, noise

IMAGES = {"id": pl.String, "image": pl.Int32, "sha256": pl.String}
ROWS = families(1200, 16, seed=1)


def _filled(nprobe: int, rows: Floats = ROWS) -> IvfIndex:
    index = IvfIndex.trained(rows, nprobe)
    _add(index, rows, range(len(rows)))
    return index


def _add(index: FlatIndex, rows: Floats, numbers: range) -> None:
    ids = [f"i{number:05d}" for number in numbers]
    images = pl.DataFrame({"id": ids, "image": [0] * len(ids), "sha256": ids}, schema=IMAGES)
    index.add(images, rows[list(numbers)])


@pytest.mark.parametrize("make", [_filled, lambda nprobe: _flat()], ids=["ivf", "flat"])
def test_ivf_with_all_probes_equals_brute_force(make: object) -> None:
    index: FlatIndex = make(10_000)  # type: ignore[operator]
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


def test_range_search_threshold_is_inclusive() -> None:
    rows = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], np.float32)
    index = FlatIndex.empty(4)
    _add(index, rows, range(2))

    assert index.range_search(rows[:1], 0.5)[1].tolist() == [0, 1]
    assert index.range_search(rows[:1], 0.5001)[1].tolist() == [0]


def test_ivf_keeps_the_vectors_of_items_that_are_not_removed(tmp_path: Path) -> None:
    index = _filled(10_000)
    gone = index.entries["id"].gather_every(3)

    index.keep(index.entries.filter(~pl.col("id").is_in(gone.implode())))
    index.save(tmp_path / "index.faiss")
    index = IvfIndex.load(tmp_path / "index.faiss", index.entries, index.next_number)

    left = np.array([int(item[1:]) for item in index.entries["id"].to_list()])
    assert not set(gone) & set(index.entries["id"])
    np.testing.assert_array_equal(index.vectors(), ROWS[left])
    positions, _ = index.search(ROWS[left[:40]], 1)
    np.testing.assert_allclose(
        (index.vectors()[positions[:, 0]] * ROWS[left[:40]]).sum(axis=1), 1, atol=1e-6
    )


def test_recall_rises_with_nprobe() -> None:
    rows = noise(2000, 24, seed=2)
    recalls = [_filled(nprobe, rows).recall(sample=200) for nprobe in (1, 8, 10_000)]

    assert recalls == sorted(recalls)
    assert recalls[0] < 0.9
    assert recalls[2] == 1.0
    assert _flat().recall(sample=100) == 1.0


def test_recall_of_a_single_item_is_one() -> None:
    index = IvfIndex.trained(ROWS[:1], 4)
    _add(index, ROWS, range(1))

    assert index.recall() == 1.0


def test_ivf_needs_retraining_after_large_growth() -> None:
    index = IvfIndex.trained(ROWS[:60], 4)
    _add(index, ROWS, range(60))
    assert not index.needs_retraining

    _add(index, ROWS, range(60, 1200))

    assert index.needs_retraining


def test_flat_file_is_rejected_as_ivf(tmp_path: Path) -> None:
    flat = _flat()
    flat.save(tmp_path / "index.faiss")

    with pytest.raises(StoreError, match="is a IndexIDMap2, not IndexIVFFlat"):
        IvfIndex.load(tmp_path / "index.faiss", flat.entries, flat.next_number)


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


def _flat() -> FlatIndex:
    index = FlatIndex.empty(ROWS.shape[1])
    _add(index, ROWS, range(len(ROWS)))
    return index


@pytest.mark.parametrize("make", [lambda: _filled(10_000), lambda: _flat()], ids=["ivf", "flat"])
def test_mapped_index_equals_the_loaded_one_after_its_file_is_gone(
    make: Callable[[], FlatIndex], tmp_path: Path
) -> None:
    index = make()
    index.keep(index.entries.filter(pl.col("number") % 7 != 3))
    path = tmp_path / "index.faiss"
    index.save(path)

    mapped = type(index).load(path, index.entries, index.next_number, mapped=True)
    path.unlink()

    for found, expected in zip(
        mapped.search(ROWS[:50], 5), index.search(ROWS[:50], 5), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    positions = np.array([5, 0, 700, 5])
    np.testing.assert_array_equal(mapped.vectors_at(positions), index.vectors()[positions])
    assert mapped.vectors_at(positions[:0]).shape == (0, 16)
