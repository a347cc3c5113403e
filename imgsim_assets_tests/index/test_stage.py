from __future__ import annotations

import hashlib
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.encoders.table import SCHEMA, embeddings_table
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.index.stage import (
    IndexReport,
    IndexStage,
    embedded_images,
    index_table,
    open_index,
)
from imgsim_assets.index.vector_file import Floats
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit, replace_shard
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import tables
from imgsim_assets_tests.support.damage import recompute_with_rounding_difference

ENCODER = "0123456789abcdef"
OTHER = "fedcba9876543210"
DIMS = {ENCODER: 8, OTHER: 5}
WHOLE = Shard(0, 1)
IDS = [f"item-{number}" for number in range(10)]

# Items and their images, by number; None for an image without a vector.
Image = int | None
Content = Mapping[str, Image | list[Image]]


# ---- what is indexed --------------------------------------------------------------------


def test_first_index_has_every_embedded_item(store: Store) -> None:
    embeddings = _embed(store, {"b": 1, "a": 0, "failed": None})

    report = IndexStage(store, "products").run()

    commit, index = open_index(store, "products")
    _assert_holds(store, {"a": 0, "b": 1})
    assert (report.version, report.items, report.dim) == (1, 2, 8)
    assert (report.added, report.removed, report.changed) == (2, 0, True)
    assert report.bytes == commit.files[0].bytes > 0
    assert commit.inputs == {"embeddings": embeddings.version}
    assert commit.properties["fingerprint"] == report.fingerprint == ENCODER
    assert (commit.properties["dim"], commit.properties["metric"]) == (8, "cosine")
    assert commit.properties["encoder"] == {"name": "an encoder"}
    assert len(index) == 2


def test_report_counts_added_removed_and_replaced_items(store: Store) -> None:
    _embed(store, {"stays": 0, "goes": 1, "changes": 2})
    IndexStage(store, "products").run()
    _embed(store, {"stays": 0, "changes": 3, "comes": 4})

    report = IndexStage(store, "products").run()

    assert (report.added, report.removed, report.rebuilt) == (2, 2, False)
    assert (report.version, report.items, report.changed) == (2, 3, True)
    _assert_holds(store, {"stays": 0, "changes": 3, "comes": 4})


IMAGE = st.none() | st.integers(0, 9)


@settings(max_examples=25, deadline=None)
@given(
    history=st.lists(
        st.tuples(
            st.sampled_from([ENCODER, ENCODER, ENCODER, OTHER]),
            st.dictionaries(st.sampled_from(IDS), IMAGE | st.lists(IMAGE, min_size=1, max_size=3)),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_index_after_any_history_equals_a_rebuild(history: list[tuple[str, Content]]) -> None:
    store = Store.open(f"memory://{uuid.uuid4().hex}")
    for encoder, content in history:
        _embed(store, content, encoder)
        report = IndexStage(store, "products").run()
        _assert_holds(store, content, encoder)
        assert not IndexStage(store, "products").run().changed

    rebuilt = Store.open(f"memory://{uuid.uuid4().hex}")
    encoder, content = history[-1]
    _embed(rebuilt, content, encoder)
    assert IndexStage(rebuilt, "products").run().data_version == report.data_version
    updated, fresh = open_index(store, "products")[1], open_index(rebuilt, "products")[1]
    assert updated.entries.drop("number").equals(fresh.entries.drop("number"))
    assert updated.vectors().tolist() == fresh.vectors().tolist()


def test_search_finds_all_items_of_one_image(store: Store) -> None:
    _embed(store, {"a": 3, "b": 3, "c": 3, "d": 4})
    IndexStage(store, "products").run()

    _, index = open_index(store, "products")
    positions, similarity = index.search(_vectors([3], ENCODER), 3)

    ids = {index.entries["id"][position] for position in positions[0].tolist()}
    assert ids == {"a", "b", "c"}
    assert similarity[0] == pytest.approx([1.0] * 3, abs=1e-6)


def test_one_file_of_vectors_is_held_at_a_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    content: Content = {item: number % 7 for number, item in enumerate(IDS)}
    for count in (3, 6, 10):
        _embed(store, dict(list(content.items())[:count]))
    files = len(list(VectorTable(store, "products", ENCODER).parts()))
    assert files == 3
    seen: list[int] = []
    read_rows = VectorTable.read_rows

    def noted(table: VectorTable, images: RowBlocks) -> Iterator[Any]:
        for rows, vectors in read_rows(table, images):
            seen.append(len(vectors))
            yield rows, vectors

    monkeypatch.setattr(VectorTable, "read_rows", noted)

    assert IndexStage(store, "products").run().images == len(IDS)
    _assert_holds(store, content)
    assert (len(seen), sum(seen)) == (files, len(IDS))


def test_reordered_images_keep_their_vectors(store: Store) -> None:
    _embed(store, {"a": [0, 1, 2], "b": [3]})
    first = IndexStage(store, "products").run()
    numbers = dict(open_index(store, "products")[1].entries.select("sha256", "number").rows())
    _embed(store, {"a": [2, 0, 1], "b": [3]})

    report = IndexStage(store, "products").run()

    _assert_holds(store, {"a": [2, 0, 1], "b": [3]})
    _, index = open_index(store, "products")
    assert dict(index.entries.select("sha256", "number").rows()) == numbers
    assert (report.added, report.removed, report.moved, report.rebuilt) == (0, 0, 3, False)
    assert (report.items, report.images, report.changed) == (2, 4, True)
    assert report.data_version != first.data_version


def test_image_that_an_item_has_twice_is_indexed_twice(store: Store) -> None:
    for images in ([4, 4], [4], [5, 4, 4], [4, 5, 4, 4]):
        _embed(store, {"a": list(images)})
        IndexStage(store, "products").run()
        _assert_holds(store, {"a": list(images)})


def test_items_are_those_with_an_image_in_the_index(store: Store) -> None:
    _embed(store, {"a": [None, 0], "b": [None, None], "c": [1, 2]})

    report = IndexStage(store, "products").run()

    assert (report.items, report.images, report.added) == (2, 3, 3)
    _assert_holds(store, {"a": [None, 0], "c": [1, 2]})


def test_index_of_an_earlier_version_has_one_image_per_item(store: Store) -> None:
    _embed(store, {"a": 0, "b": 1})
    first = IndexStage(store, "products").run()
    table = index_table(store, "products")
    commit = tables.latest_commit(table)
    entries = table.write_rows(table.read(commit).drop("image"))
    files = [file for file in commit.files if file.role != "rows"]
    table.commit(lambda _: PendingCommit([*files, entries], commit.inputs, commit.properties))

    _assert_holds(store, {"a": 0, "b": 1})
    report = IndexStage(store, "products").run()

    assert (report.added, report.removed, report.rebuilt) == (0, 0, False)
    assert report.data_version == first.data_version
    _assert_holds(store, {"a": 0, "b": 1})
    assert not IndexStage(store, "products").run().changed


def test_index_covers_all_shards(store: Store) -> None:
    content = dict(zip(IDS, range(10), strict=True))
    for shard in (Shard(index, 3) for index in range(3)):
        _embed(store, tables.items_of_shard(dict(content), shard), shard=shard)

    IndexStage(store, "products").run()

    _assert_holds(store, content)


# ---- nothing to do ----------------------------------------------------------------------


def test_unchanged_embeddings_commit_nothing(store: Store) -> None:
    _embed(store, {"a": 0, "b": 1})
    first = IndexStage(store, "products").run()
    _embed(store, {"b": 1, "a": 0, "failed": None})

    second = IndexStage(store, "products").run()

    assert index_table(store, "products").versions() == [1]
    assert (second.changed, second.added, second.removed, second.rebuilt) == (False, 0, 0, False)
    assert (second.version, second.items, second.dim) == (first.version, first.items, first.dim)
    assert second.data_version == first.data_version
    assert second.bytes == first.bytes


def test_data_version_changes_with_items_images_and_encoder(store: Store) -> None:
    seen: list[IndexReport] = []
    for content, encoder in (
        ({"a": 0}, ENCODER),
        ({"a": 1}, ENCODER),
        ({"b": 1}, ENCODER),
        ({"b": 1}, OTHER),
    ):
        _embed(store, content, encoder)
        seen.append(IndexStage(store, "products").run())
    assert len({report.data_version for report in seen}) == 4

    _embed(store, {"a": 0}, ENCODER)
    assert IndexStage(store, "products").run().data_version == seen[0].data_version


# ---- empty ------------------------------------------------------------------------------


def test_catalog_without_vectors_has_an_empty_index(store: Store) -> None:
    _embed(store, {"failed": None})

    report = IndexStage(store, "products").run()

    assert (report.items, report.changed) == (0, True)
    assert len(open_index(store, "products")[1]) == 0
    assert not IndexStage(store, "products").run().changed


def test_emptied_index_can_be_filled_again(store: Store) -> None:
    for content in ({"a": 0, "b": 1}, {}, {"b": 1, "c": 2}, {}, {"d": 3}):
        _embed(store, content)
        assert IndexStage(store, "products").run().items == len(content)
        _assert_holds(store, content)


def test_search_in_an_empty_index_finds_nothing(store: Store) -> None:
    _embed(store, {})
    IndexStage(store, "products").run()

    positions, _ = open_index(store, "products")[1].search(_vectors([0, 1], ENCODER), 3)

    assert positions.tolist() == [[-1] * 3] * 2


# ---- encoders ---------------------------------------------------------------------------


def test_index_of_another_encoder_is_rebuilt(store: Store) -> None:
    _embed(store, {"a": 0, "b": 1})
    IndexStage(store, "products").run()
    _embed(store, {"a": 0, "b": 1}, OTHER)

    report = IndexStage(store, "products").run()

    assert (report.rebuilt, report.added, report.removed) == (True, 2, 0)
    assert (report.dim, report.fingerprint) == (5, OTHER)
    _assert_holds(store, {"a": 0, "b": 1}, OTHER)


def test_shards_of_different_encoders_are_an_error_that_names_the_fix(store: Store) -> None:
    content = dict(zip(IDS, range(10), strict=True))
    for index, encoder in enumerate([ENCODER, OTHER]):
        shard = Shard(index, 2)
        _embed(store, tables.items_of_shard(content, shard), encoder, shard)

    for call in (IndexStage(store, "products").run, lambda: embedded_images(store, "products")):
        with pytest.raises(StoreError) as error:
            call()
        assert "the shards of products/embeddings were made by 2 different encoders" in str(
            error.value
        )
        assert "materialize every shard of the embeddings" in str(error.value)
    assert index_table(store, "products").versions() == []


# ---- order of work ----------------------------------------------------------------------


def test_index_without_embeddings_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="products/embeddings has no version yet; materialize it"):
        IndexStage(store, "products").run()
    with pytest.raises(StoreError, match="products/index has no version yet; materialize it"):
        open_index(store, "products")


def test_concurrent_runs_leave_one_correct_index(store: Store) -> None:
    _embed(store, {"a": 0, "b": 1})
    IndexStage(store, "products").run()
    _embed(store, {"b": 1, "c": 2, "d": 3})
    reports: list[IndexReport] = []

    def update() -> None:
        reports.append(IndexStage(Store.open(store.url), "products").run())

    threads = [threading.Thread(target=update) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(reports) == 4
    _assert_holds(store, {"b": 1, "c": 2, "d": 3})


def test_slow_run_does_not_replace_a_newer_index(store: Store) -> None:
    _embed(store, {"a": 0})
    IndexStage(store, "products").run()
    _index_file(store).unlink()
    _embed(store, {"a": 0, "b": 1})

    def commit_in_another_run(_: str) -> None:
        _embed(store, {"a": 0, "b": 1, "c": 2})
        IndexStage(store, "products").run()

    report = IndexStage(store, "products", log=commit_in_another_run).run()

    _assert_holds(store, {"a": 0, "b": 1, "c": 2})
    assert report.version == 2
    assert report.items == 3


def test_deleted_and_recreated_embeddings_are_indexed(store: Store) -> None:
    for image in range(3):
        _embed(store, {"a": image})
    IndexStage(store, "products").run()
    shutil.rmtree(Path(store.url) / "products" / "embeddings")
    _embed(store, {"b": 5})

    IndexStage(store, "products").run()

    _assert_holds(store, {"b": 5})


# ---- damage -----------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["index", "entries"])
@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut in half", "flipped"])
def test_damaged_index_is_never_opened(store: Store, part: str, damage: str) -> None:
    _embed(store, {"a": 0, "b": 1})
    IndexStage(store, "products").run()
    path = _index_file(store) if part == "index" else _entries_file(store)
    _harm(path, damage)

    with pytest.raises(CorruptFileError) as refused:
        open_index(store, "products")

    assert str(path) in str(refused.value)
    assert "materialize the asset again to rebuild it" in str(refused.value)


@pytest.mark.parametrize("part", ["index", "entries"])
@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut in half", "flipped"])
def test_damaged_index_is_rebuilt_without_changed_items(
    store: Store, part: str, damage: str
) -> None:
    _embed(store, {"a": 0, "b": 1})
    first = IndexStage(store, "products").run()
    path = _index_file(store) if part == "index" else _entries_file(store)
    _harm(path, damage)
    messages: list[str] = []

    report = IndexStage(store, "products", log=messages.append).run()

    assert (report.rebuilt, report.changed, report.added) == (True, True, 2)
    assert report.data_version == first.data_version
    _assert_holds(store, {"a": 0, "b": 1})
    assert len(messages) == 1
    assert "the index is rebuilt from the vectors" in messages[0]
    assert str(path) in messages[0]
    assert not IndexStage(store, "products").run().changed


@pytest.mark.parametrize("part", ["index", "entries"])
def test_damaged_index_is_rebuilt_with_changed_items(store: Store, part: str) -> None:
    _embed(store, {"a": 0, "b": 1})
    IndexStage(store, "products").run()
    _harm(_index_file(store) if part == "index" else _entries_file(store), "flipped")
    _embed(store, {"a": 0, "c": 2})

    assert IndexStage(store, "products").run().rebuilt
    _assert_holds(store, {"a": 0, "c": 2})


@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut in half", "flipped"])
def test_damaged_vectors_are_named_with_their_asset(store: Store, damage: str) -> None:
    _embed(store, {"a": 0, "b": 1})
    path = _vectors_file(store)
    _harm(path, damage)

    with pytest.raises(StoreError) as refused:
        IndexStage(store, "products").run()

    assert str(path) in str(refused.value)
    assert "materialize products/embeddings again" in str(refused.value)
    assert index_table(store, "products").versions() == []


def test_recomputed_vectors_are_indexed_again(store: Store) -> None:
    _embed(store, {"a": 0, "b": 1})
    first = IndexStage(store, "products").run()
    table = VectorTable(store, "products", ENCODER)
    recompute_with_rounding_difference(store, table)

    report = IndexStage(store, "products").run()

    _, index = open_index(store, "products")
    assert (report.rebuilt, report.changed) == (True, True)
    assert report.data_version != first.data_version
    vectors = table.read([_sha256(0), _sha256(1)]).vectors
    np.testing.assert_array_equal(index.vectors(), vectors)
    assert not np.array_equal(vectors, _vectors([0, 1], ENCODER))
    assert not IndexStage(store, "products").run().changed


@pytest.mark.parametrize("left", ["other vectors", "nothing"])
def test_missing_vectors_are_an_error_that_names_the_embeddings(store: Store, left: str) -> None:
    _embed(store, {"a": 0, "b": 1})
    if left == "other vectors":
        _add_vectors(store, [7], ENCODER)
    _harm(_vectors_file(store), "flipped")
    with pytest.raises(StoreError):
        IndexStage(store, "products").run()

    with pytest.raises(StoreError, match=r"lacks the vectors .* materialize products/embeddings"):
        IndexStage(store, "products").run()

    _embed(store, {"a": 0, "b": 1})
    IndexStage(store, "products").run()
    _assert_holds(store, {"a": 0, "b": 1})


def test_version_without_an_index_file_is_an_error(store: Store) -> None:
    index_table(store, "products").commit(lambda _: PendingCommit([]))

    with pytest.raises(StoreError, match="products/index version 1 lists no index file"):
        open_index(store, "products")


# ---- helpers ----------------------------------------------------------------------------


def _embed(store: Store, content: Content, encoder: str = ENCODER, shard: Shard = WHOLE) -> Commit:
    """Commit a shard of the embeddings with exactly this content, and the vectors of its images."""
    images = _images(content)
    _add_vectors(store, sorted({image for *_, image in images if image is not None}), encoder)
    rows = [
        {"id": item, "image": number, "sha256": _sha256(-1), "status": "bad"}
        if image is None
        else {
            "id": item,
            "image": number,
            "sha256": _sha256(image),
            "status": "ok",
            "truncated": False,
        }
        for item, number, image in images
    ]
    table = embeddings_table(store, "products")
    file = table.write_rows(pl.DataFrame(rows, schema=SCHEMA))
    commit = table.commit(partial(_draft, file.with_metadata(fingerprint=encoder), shard, encoder))
    assert commit is not None
    return commit


def _images(content: Content) -> list[tuple[str, int, Image]]:
    """The images of items as (id, number, image), sorted."""
    return [
        (item, number, image)
        for item, images in sorted(content.items())
        for number, image in enumerate(images if isinstance(images, list) else [images])
    ]


def _draft(file: DataFile, shard: Shard, encoder: str, base: Commit | None) -> PendingCommit:
    return PendingCommit(
        replace_shard(base, shard, [file]),
        properties={"fingerprint": encoder, "encoder": {"name": "an encoder"}},
    )


def _add_vectors(store: Store, images: list[int], encoder: str) -> None:
    table = VectorTable(store, "products", encoder)
    existing = table.keys()
    missing = [image for image in images if _sha256(image) not in existing]
    norms = np.ones(len(missing), np.float32)
    table.append(VectorRows(list(map(_sha256, missing)), _vectors(missing, encoder), norms))


def _vectors(images: list[int], encoder: str) -> Floats:
    rows = np.random.default_rng(1).standard_normal((10, DIMS[encoder])).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    chosen: Floats = rows[images]
    return chosen


def _sha256(image: int) -> str:
    return hashlib.sha256(str(image).encode()).hexdigest()


def _assert_holds(store: Store, content: Content, encoder: str = ENCODER) -> None:
    images = [row for row in _images(content) if row[2] is not None]
    _, index = open_index(store, "products")
    assert index.entries.select("id", "image", "sha256").rows() == [
        (item, number, _sha256(image or 0)) for item, number, image in images
    ]
    if not images:
        assert len(index) == 0
        return
    expected = _vectors([image or 0 for *_, image in images], encoder)
    assert np.array_equal(index.vectors(), expected)
    positions, similarity = index.search(expected, len(images))
    assert np.array_equal(
        np.sort(positions, axis=1), np.tile(np.arange(len(images)), (len(images), 1))
    )
    cosines = expected @ expected.T
    assert np.allclose(similarity, np.take_along_axis(cosines, positions, axis=1), atol=1e-6)
    assert (np.diff(similarity, axis=1) <= 1e-6).all()


def _index_file(store: Store) -> Path:
    commit = tables.latest_commit(index_table(store, "products"))
    file = commit.file_with_role("index")
    assert file is not None
    return Path(store.url) / "products" / "index" / file.path


def _entries_file(store: Store) -> Path:
    table = index_table(store, "products")
    (path,) = table.local_paths(tables.latest_commit(table)) or []
    return path


def _vectors_file(store: Store) -> Path:
    table = VectorTable(store, "products", ENCODER).table
    return (table.local_paths(tables.latest_commit(table)) or [])[0]


def _harm(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "deleted":
        path.unlink()
        return
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    length = {"emptied": 0, "cut in half": len(data) // 2}.get(damage, len(data))
    path.write_bytes(bytes(data[:length]))
