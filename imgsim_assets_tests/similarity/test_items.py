from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.index.stage import IndexStage, index_table
from imgsim_assets.similarity import items
from imgsim_assets.similarity.duplicate_groups import GroupReport, GroupStage
from imgsim_assets.similarity.graph import GraphReport, GraphStage
from imgsim_assets.similarity.matches import MatchReport, MatchStage
from imgsim_assets.similarity.settings import (
    CrossCatalogGroupSettings,
    GraphSettings,
    GroupSettings,
    MatchSettings,
)
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import (
    THUMBNAIL,
    embed_shards,
    fill,
    indexed,
    sha256_of,
    tiny,
)
from imgsim_assets_tests.support.damage import flip_bit, recompute_with_rounding_difference

PRINT = fingerprint(THUMBNAIL)
# The order of the hashes is not that of the ids, and two items share an image.
IMAGES = {"a": tiny(3), "b": tiny(1), "c": tiny(3), "é": tiny(2), "z": b"no image"}


def test_embeddings_and_index_have_the_same_items_sorted_by_id(store: Store) -> None:
    indexed(store, "shop", IMAGES)

    embeddings, embedded = items.from_embeddings(store, "shop")
    index, searched = items.from_index(store, "shop")

    assert embedded.keys["id"].to_list() == ["a", "b", "c", "é"]
    assert embedded.keys["sha256"].to_list() == [sha256_of(IMAGES[item]) for item in "abcé"]
    assert searched.keys.equals(embedded.keys)
    np.testing.assert_array_equal(searched.vectors, embedded.vectors)
    assert embeddings.table == "shop/embeddings"
    assert index.inputs == {"embeddings": embeddings.version}


def test_each_item_has_the_vector_of_its_image(store: Store) -> None:
    indexed(store, "shop", IMAGES)
    table = VectorTable(store, "shop", PRINT)

    _, embedded = items.from_embeddings(store, "shop")

    for sha256, vector in zip(embedded.keys["sha256"], embedded.vectors, strict=True):
        np.testing.assert_array_equal(vector, table.read([sha256]).vectors[0])


def test_index_keeps_its_items_until_the_next_run(store: Store) -> None:
    indexed(store, "shop", {"a": tiny(1)})
    embed_shards(store, "shop", THUMBNAIL, fill(store, "shop", {"b": tiny(2)}))

    assert items.from_embeddings(store, "shop")[1].keys["id"].to_list() == ["b"]
    assert items.from_index(store, "shop")[1].keys["id"].to_list() == ["a"]
    IndexStage(store, "shop").run()
    assert items.from_index(store, "shop")[1].keys["id"].to_list() == ["b"]


def test_catalog_without_usable_images_has_no_items(store: Store) -> None:
    indexed(store, "shop", {"a": b"no image"})

    assert len(items.from_embeddings(store, "shop")[1]) == 0
    assert len(items.from_index(store, "shop")[1]) == 0


def test_missing_tables_are_named(store: Store) -> None:
    with pytest.raises(StoreError, match="shop/embeddings has no version yet; materialize"):
        items.from_embeddings(store, "shop")
    with pytest.raises(StoreError, match="shop/index has no version yet; materialize"):
        items.from_index(store, "shop")


def test_item_without_a_vector_is_an_error(store: Store) -> None:
    indexed(store, "shop", {"a": tiny(1)})
    keys = pl.DataFrame({"id": ["a", "b"], "sha256": [sha256_of(tiny(1)), "0" * 64]})

    with pytest.raises(StoreError, match="lacks the vectors of 1 image; materialize shop/emb"):
        items.with_vectors(store, "shop", PRINT, keys).blocks.all()


def test_damaged_index_is_rebuilt_by_the_next_run(store: Store) -> None:
    indexed(store, "shop", IMAGES)
    table = index_table(store, "shop")
    commit = table.latest()
    file = commit.file_with_role("index") if commit is not None else None
    assert file is not None
    flip_bit(store, table, file)
    with pytest.raises(CorruptFileError, match="materialize the asset again to rebuild it"):
        items.from_index(store, "shop")[1].blocks.all()

    IndexStage(store, "shop").run()

    assert len(items.from_index(store, "shop")[1]) == 4


def test_recomputed_vectors_cause_full_computations(store: Store) -> None:
    for name in ("shop", "other"):
        indexed(store, name, IMAGES)
    before = _results(store)
    assert [report.changed for report in before] == [True] * 4

    recompute_with_rounding_difference(store, VectorTable(store, "shop", PRINT))
    assert IndexStage(store, "shop").run().changed

    after = _results(store)
    assert [(report.changed, report.incremental) for report in after] == [(True, False)] * 4
    assert not {report.data_version for report in before} & {
        report.data_version for report in after
    }
    assert [report.changed for report in _results(store)] == [False] * 4

    # A match table reads the vectors of the left catalog and the index of the right one.
    recompute_with_rounding_difference(store, VectorTable(store, "other", PRINT))
    assert IndexStage(store, "other").run().changed
    assert [report.changed for report in _results(store)] == [False, True, False, True]


def _results(store: Store) -> list[GraphReport | MatchReport | GroupReport]:
    return [
        GraphStage(store, "shop", GraphSettings()).run(),
        MatchStage(store, "pair", MatchSettings(), left="shop", right="other").run(),
        GroupStage(store, "shop", GroupSettings()).run(),
        GroupStage(store, "all", CrossCatalogGroupSettings(), catalogs=["shop", "other"]).run(),
    ]
