from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.flat import FlatIndex
from imgsim_assets.index.ivf import IvfIndex
from imgsim_assets_tests.support.index_files import Content, images_of, updated, vector_table
from imgsim_assets_tests.support.vectors import noise

DIM = 6
ROWS = noise(40, DIM, seed=5)
KEYS = [(f"item-{number}", image) for number in range(5) for image in range(3)]
CONTENT = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 39))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> VectorTable:
    """The vectors of images, by row."""
    return vector_table(tmp_path_factory.mktemp("store"), ROWS)


@settings(max_examples=40, deadline=None)
@given(contents=st.lists(CONTENT, min_size=1, max_size=5), nprobe=st.sampled_from([None, 100]))
def test_index_after_any_history_equals_a_new_index(
    vectors: VectorTable, contents: list[Content], nprobe: int | None
) -> None:
    index: FlatIndex | None = None
    for content in contents:
        # The stage builds an index without images, or of another kind, from nothing.
        base = index if index is not None and len(index) else None
        index = updated(base, vectors, content, nprobe)

        _assert_holds(index, content)


def test_updated_lists_keep_their_centroids(vectors: VectorTable) -> None:
    content = {(f"item-{row:02d}", 0): row for row in range(39)}
    index = updated(None, vectors, content, 1)

    grown = updated(index, vectors, {**content, ("new", 0): 39}, 1)

    assert isinstance(index, IvfIndex)
    assert isinstance(grown, IvfIndex)
    assert [each.quantizer.ntotal for each in (index, grown)] == [1, 1]
    np.testing.assert_array_equal(
        *(each.quantizer.reconstruct(0) for each in (index, grown)), strict=True
    )


def _assert_holds(index: FlatIndex, content: Content) -> None:
    keys = sorted(content)
    expected = ROWS[[content[key] for key in keys]].reshape(-1, index.dim)
    assert index.entries.select("id", "image").rows() == keys
    assert index.entries["sha256"].equals(images_of(content)["sha256"])
    assert index.entries["number"].n_unique() == len(index) == len(keys)
    np.testing.assert_array_equal(index.vectors(), expected)
    every_second = np.arange(0, len(keys), 2)[::-1].copy()
    np.testing.assert_array_equal(index.vectors_at(every_second), expected[every_second])
    if not keys:
        return
    queries = ROWS[::5]
    positions, similarity = index.search(queries, 3)
    products = queries @ expected.T
    best = np.sort(products, axis=1)[:, ::-1][:, :3]
    for row, found in enumerate(positions):
        hits = found[found >= 0]
        assert len(hits) == len(set(hits.tolist())) == min(3, len(keys))
        assert similarity[row][: len(hits)] == pytest.approx(best[row], abs=1e-5)
        assert products[row][hits] == pytest.approx(best[row], abs=1e-5)
