from __future__ import annotations

import faiss
import numpy as np
import polars as pl
import pytest

from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index import list_assignment
from imgsim_assets.index.list_assignment import assigned_lists, nearest_lists
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.pickled_tasks import pickled_tasks
from imgsim_assets_tests.support.vectors import Floats, families, noise


def _quantizer(centroids: Floats) -> faiss.IndexFlatIP:
    quantizer = faiss.IndexFlatIP(centroids.shape[1])
    quantizer.add(centroids)
    return quantizer


def test_lists_are_those_of_the_greatest_cosine() -> None:
    centroids, vectors = noise(7, 16, 0), families(300, 16, 1)

    lists = nearest_lists(_quantizer(centroids), centroids, vectors)

    exact = vectors.astype(np.float64) @ centroids.astype(np.float64).T
    assert np.array_equal(lists, exact.argmax(axis=1))


@pytest.mark.parametrize("batch", [1, 7, 32, 300])
def test_lists_do_not_depend_on_the_batch(batch: int) -> None:
    # Centroids that are equal, and others that differ in the last bits.
    centroids = noise(6, 32, 0)
    centroids[3] = centroids[1]
    centroids[4] = np.nextafter(centroids[2], np.float32(1))
    vectors = families(300, 32, 1)
    vectors[::3], vectors[1::3] = centroids[1], centroids[2]
    quantizer = _quantizer(centroids)

    parts = [
        nearest_lists(quantizer, centroids, vectors[start : start + batch])
        for start in range(0, len(vectors), batch)
    ]

    assert np.array_equal(np.concatenate(parts), nearest_lists(quantizer, centroids, vectors))
    assert set(np.concatenate(parts)[::3].tolist()) == {1}


def test_tasks_of_a_cluster_assign_the_same_lists(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = families(500, 16, 2)
    keys = [f"{number * 7919 % 500:064x}" for number in range(500)]
    table = VectorTable(store, "shop", "f" * 16)
    table.append(VectorRows(keys, vectors, np.ones(500, np.float32)))
    images, quantizer = RowBlocks.of(pl.DataFrame({"sha256": keys})), _quantizer(noise(9, 16, 3))
    monkeypatch.setattr(list_assignment, "_MIN_IMAGES", 50)

    with pickled_tasks() as runner:
        found = assigned_lists(table, quantizer, images)

    assert runner.labels == ["inverted lists"] * 8
    assert np.array_equal(found, assigned_lists(table, quantizer, images))
