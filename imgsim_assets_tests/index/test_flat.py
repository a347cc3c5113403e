from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.index.entries import NO_ENTRIES
from imgsim_assets.index.flat import FlatIndex
from imgsim_assets.index.writer import write_flat
from imgsim_assets_tests.support.index_files import sha256_of, updated, vector_table
from imgsim_assets_tests.support.vectors import noise

DIM = 6
ROWS = noise(40, DIM, seed=5)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> VectorTable:
    """The vectors of images, by row."""
    return vector_table(tmp_path_factory.mktemp("store"), ROWS)


def test_search_finds_each_image_by_its_vector(vectors: VectorTable) -> None:
    index = updated(None, vectors, {("b", 0): 1, ("a", 0): 0, ("b", 1): 2})

    positions, similarity = index.search(ROWS[[2, 0]], 1)

    assert index.entries.select("id", "image").rows() == [("a", 0), ("b", 0), ("b", 1)]
    assert index.entries["sha256"].to_list() == [sha256_of(row) for row in range(3)]
    assert [index.entries["id"][position] for position in positions[:, 0].tolist()] == ["b", "a"]
    assert similarity[:, 0] == pytest.approx([1.0, 1.0], abs=1e-6)
    assert (len(index), index.dim) == (3, DIM)


def test_parts_have_the_vectors_of_their_entries(
    vectors: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgsim_assets.index.vector_file.part_bytes", lambda: 3 * 4 * DIM)
    content = {(f"item-{row:02d}", 0): (row * 7) % 40 for row in range(40)}
    index = updated(None, vectors, content)

    parts = list(index.parts())

    assert all(len(positions) == len(part) <= 3 for positions, part in parts)
    assert sorted(np.concatenate([positions for positions, _ in parts]).tolist()) == [*range(40)]
    expected = ROWS[list(content.values())]
    for positions, part in parts:
        np.testing.assert_array_equal(part, expected[positions])
    np.testing.assert_array_equal(index.vectors(), expected)


@pytest.mark.parametrize("nprobe", [None, 2])
def test_chosen_vectors_are_read_without_the_index(
    vectors: VectorTable, monkeypatch: pytest.MonkeyPatch, nprobe: int | None
) -> None:
    content = {(f"item-{row:02d}", 0): (row * 7) % 40 for row in range(40)}
    index = updated(None, vectors, content, nprobe)
    file, expected = index.vector_file(), index.vectors()
    del index
    read = []
    preadv = os.preadv

    def noted(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        read.append(sum(buffer.nbytes for buffer in buffers))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", noted)
    chosen = np.array([3, 4, 31])
    parts = list(file.parts(chosen))

    positions = np.concatenate([positions for positions, _ in parts])
    assert sorted(positions.tolist()) == chosen.tolist()
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), expected[positions])
    assert sum(read) == 3 * 4 * DIM


def test_search_pads_missing_results(vectors: VectorTable) -> None:
    index = updated(None, vectors, {("a", 0): 0, ("b", 0): 1})

    positions, _ = index.search(ROWS[:1], 5)

    assert sorted(positions[0].tolist()) == [-1, -1, -1, 0, 1]
    assert positions[0].tolist()[2:] == [-1, -1, -1]


def test_empty_index_can_be_searched(vectors: VectorTable) -> None:
    index = updated(None, vectors, {})

    positions, _ = index.search(np.ones((2, 1), np.float32), 3)

    assert positions.tolist() == [[-1] * 3] * 2
    assert index.vectors().shape == (0, 1)
    assert len(index) == 0


def test_search_without_queries_is_empty(vectors: VectorTable) -> None:
    index = updated(None, vectors, {("a", 0): 0})

    positions, similarity = index.search(ROWS[:0], 3)

    assert positions.shape == similarity.shape == (0, 3)


def test_range_search_threshold_is_inclusive(tmp_path: Path) -> None:
    rows = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], np.float32)
    index = updated(None, vector_table(tmp_path, rows), {("a", 0): 0, ("b", 0): 1})

    assert index.range_search(rows[:1], 0.5)[1].tolist() == [0, 1]
    assert index.range_search(rows[:1], 0.5001)[1].tolist() == [0]


@pytest.mark.parametrize("content", [None, b"", b"no index at all", b"IxM2"])
def test_file_that_is_not_an_index_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "index.faiss"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(StoreError, match=f"{path} is not a FAISS index"):
        FlatIndex.load(path, NO_ENTRIES.all(), 0)


def test_index_file_of_other_images_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    write_flat(path, DIM, 2, [(np.arange(2), ROWS[:2])])

    for numbers in ([0, 1, 2], [1], [1, 2], []):
        entries = (
            NO_ENTRIES.all().clear(len(numbers)).with_columns(number=np.array(numbers, np.int64))
        )
        with pytest.raises(
            StoreError, match=f"{path} holds other images than its table of entries"
        ):
            FlatIndex.load(path, entries, 3)
