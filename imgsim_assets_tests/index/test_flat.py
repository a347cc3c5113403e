from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.errors import StoreError
from imgsim_assets.index.flat import FlatIndex, Floats

DIM = 6
# Unit vectors of as many images, by number.
VECTORS: Floats = np.random.default_rng(5).standard_normal((40, DIM)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)

# Vectors by (id, image).
Content = dict[tuple[str, int], int]
SCHEMA = {"id": pl.String, "image": pl.Int32, "sha256": pl.String}
KEYS = [(f"item-{number}", image) for number in range(5) for image in range(3)]


def test_search_finds_each_image_by_its_vector() -> None:
    index = FlatIndex.empty(DIM)
    _add(index, {("b", 0): 1, ("a", 0): 0, ("b", 1): 2})

    positions, similarity = index.search(VECTORS[[2, 0]], 1)

    assert index.entries.select("id", "image").rows() == [("a", 0), ("b", 0), ("b", 1)]
    assert index.entries["sha256"].to_list() == ["image-0", "image-1", "image-2"]
    assert [index.entries["id"][position] for position in positions[:, 0].tolist()] == ["b", "a"]
    assert similarity[:, 0] == pytest.approx([1.0, 1.0], abs=1e-6)
    assert (len(index), index.dim) == (3, DIM)


def test_vectors_that_come_in_parts_are_those_of_their_images() -> None:
    columns = {"id": list("edcba"), "image": [0] * 5, "sha256": list("vwxyz")}
    images = pl.DataFrame(columns, schema=SCHEMA)
    whole, parts = FlatIndex.empty(DIM), FlatIndex.empty(DIM)
    whole.add(images, VECTORS[:5])

    rows = [np.array([4, 1]), np.array([0]), np.empty(0, np.int64), np.array([2, 3])]
    parts.add_parts(images, ((part, VECTORS[part]) for part in rows))

    assert parts.entries.equals(whole.entries)
    np.testing.assert_array_equal(parts.vectors(), whole.vectors())
    np.testing.assert_array_equal(parts.search(VECTORS, 3)[0], whole.search(VECTORS, 3)[0])
    with pytest.raises(StoreError, match="twice"):
        parts.add_parts(images.head(1), [])


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.dictionaries(st.sampled_from(KEYS), st.integers(0, 39))),
            st.tuples(st.just("remove"), st.dictionaries(st.sampled_from(KEYS), st.just(0))),
            st.tuples(st.just("reopen"), st.just({})),
        ),
        max_size=10,
    )
)
def test_index_after_any_history_equals_a_new_index(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Content]]
) -> None:
    folder = tmp_path_factory.mktemp("index")
    index = FlatIndex.empty(DIM)
    content: Content = {}
    for kind, images in steps:
        if kind == "reopen":
            index.save(folder / "index.faiss")
            index = FlatIndex.load(folder / "index.faiss", index.entries, index.next_number)
        else:
            _remove(index, *images)
            for key in images:
                content.pop(key, None)
        if kind == "add":
            _add(index, images)
            content.update(images)

        _assert_holds(index, content)


def test_numbers_are_never_reused() -> None:
    index = FlatIndex.empty(DIM)
    _add(index, {("a", 0): 0, ("b", 0): 1})
    first = index.entries["number"].to_list()
    _remove(index, ("a", 0), ("b", 0))

    _add(index, {("a", 0): 0, ("c", 0): 2})

    assert first == [0, 1]
    assert index.entries["number"].to_list() == [2, 3]
    assert index.next_number == 4


@pytest.mark.parametrize(
    "again", [[("a", 0)], [("x", 0), ("x", 0)], [("x", 0), ("b", 1), ("y", 0)]]
)
def test_adding_an_existing_image_is_an_error(again: list[tuple[str, int]]) -> None:
    content = {("a", 0): 0, ("b", 1): 1}
    index = FlatIndex.empty(DIM)
    _add(index, content)
    images = pl.DataFrame([(*key, "bytes") for key in again], schema=SCHEMA, orient="row")

    with pytest.raises(StoreError, match="an image is added to the index twice"):
        index.add(images, VECTORS[: len(again)])

    _assert_holds(index, content)


def test_kept_vectors_belong_to_the_images_that_they_are_kept_as() -> None:
    index = FlatIndex.empty(DIM)
    _add(index, {("a", 0): 7, ("a", 1): 8, ("a", 2): 9})
    numbers = index.entries["number"].to_list()

    index.keep(
        index.entries.filter(pl.col("image") != 1).with_columns(
            (2 - pl.col("image")).alias("image")
        )
    )

    _assert_holds(index, {("a", 0): 9, ("a", 2): 7})
    assert index.entries["number"].to_list() == [numbers[2], numbers[0]]


def test_search_pads_missing_results() -> None:
    index = FlatIndex.empty(DIM)
    _add(index, {("a", 0): 0, ("b", 0): 1})

    positions, _ = index.search(VECTORS[:1], 5)

    assert sorted(positions[0].tolist()) == [-1, -1, -1, 0, 1]
    assert positions[0].tolist()[2:] == [-1, -1, -1]


def test_empty_index_can_be_saved_and_searched(tmp_path: Path) -> None:
    index = FlatIndex.empty(DIM)
    _add(index, {})
    index.save(tmp_path / "index.faiss")
    index = FlatIndex.load(tmp_path / "index.faiss", index.entries, index.next_number)

    positions, _ = index.search(VECTORS[:2], 3)

    assert positions.tolist() == [[-1] * 3] * 2
    assert index.vectors().shape == (0, DIM)
    assert len(index) == 0


def test_search_without_queries_is_empty() -> None:
    index = FlatIndex.empty(DIM)
    _add(index, {("a", 0): 0})

    positions, similarity = index.search(VECTORS[:0], 3)

    assert positions.shape == similarity.shape == (0, 3)


def test_vectors_are_a_copy() -> None:
    index = FlatIndex.empty(DIM)
    _add(index, {("a", 0): 0})
    index.vectors()[:] = 0

    assert np.array_equal(index.vectors(), VECTORS[:1])


@pytest.mark.parametrize("content", [None, b"", b"no index at all", b"IxM2"])
def test_file_that_is_not_an_index_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "index.faiss"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(StoreError, match=f"{path} is not a FAISS index"):
        FlatIndex.load(path, FlatIndex.empty(DIM).entries, 0)


def test_truncated_index_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    index = FlatIndex.empty(DIM)
    _add(index, {("a", 0): 0, ("b", 0): 1})
    index.save(path)
    whole = path.read_bytes()

    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match=str(path)):
            FlatIndex.load(path, index.entries, index.next_number)


def test_index_file_of_other_images_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    index = FlatIndex.empty(DIM)
    _add(index, {("a", 0): 0, ("b", 0): 1})
    index.save(path)
    _add(index, {("c", 0): 2})
    newer = index.entries
    _remove(index, ("a", 0), ("c", 0))

    for entries in (newer, index.entries, FlatIndex.empty(DIM).entries):
        with pytest.raises(
            StoreError, match=f"{path} holds other images than its table of entries"
        ):
            FlatIndex.load(path, entries, index.next_number)


def _add(index: FlatIndex, images: Content) -> None:
    rows = [(item, image, f"image-{vector}") for (item, image), vector in images.items()]
    index.add(pl.DataFrame(rows, schema=SCHEMA, orient="row"), VECTORS[list(images.values())])


def _remove(index: FlatIndex, *keys: tuple[str, int]) -> None:
    removed = pl.DataFrame(list(keys), schema=["id", "image"], orient="row").cast(
        {"id": pl.String, "image": pl.Int32}
    )
    index.keep(index.entries.join(removed, on=["id", "image"], how="anti"))


def _assert_holds(index: FlatIndex, content: Content) -> None:
    keys = sorted(content)
    images = [content[key] for key in keys]
    assert index.entries.select("id", "image").rows() == keys
    assert index.entries["sha256"].to_list() == [f"image-{image}" for image in images]
    assert index.entries["number"].n_unique() == len(index) == len(keys)
    assert np.array_equal(index.vectors(), VECTORS[images].reshape(-1, DIM))
    queries = VECTORS[::5]
    positions, similarity = index.search(queries, 3)
    expected = np.sort(queries @ VECTORS[images].reshape(-1, DIM).T, axis=1)[:, ::-1][:, :3]
    for row in range(len(queries)):
        hits = positions[row][positions[row] >= 0]
        assert len(hits) == len(set(hits.tolist())) == min(3, len(keys))
        products = VECTORS[images][hits] @ queries[row] if keys else np.empty(0)
        assert similarity[row][: len(hits)] == pytest.approx(expected[row], abs=1e-5)
        assert products == pytest.approx(expected[row], abs=1e-5)
