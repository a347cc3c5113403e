from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from imgsim_assets.compute.device import use_device
from imgsim_assets.errors import StoreError
from imgsim_assets.similarity.graph import SCHEMA, GraphStage, graph_table
from imgsim_assets.similarity.materialized import NEIGHBOR_LISTS
from imgsim_assets.similarity.settings import GraphSettings
from imgsim_assets.storage.commit import ROWS
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.blocks import small_blocks
from imgsim_assets_tests.support.catalogs import (
    THUMBNAIL,
    embed_shards,
    fill,
    indexed,
    repacked,
    tiny,
)
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.histories import Images, history, similarity, usable
from imgsim_assets_tests.support.torch_joins import torch_joins
from imgsim_assets_tests.support.vector_catalog import write_catalog
from imgsim_assets_tests.support.vectors import constant, families, lattice, nearly_equal, noise

# Three equal images, two of them of the same bytes, similar images, and a file without an image.
SHOP: Images = {
    "a": tiny(1),
    "b": repacked(tiny(1)),
    "c": tiny(1),
    "d": tiny(50, like=1),
    "e": tiny(2),
    "f": tiny(51, like=2),
    "gone": b"no image",
}
SETTINGS = [
    GraphSettings(k=1),
    GraphSettings(k=3),
    GraphSettings(k=2, threshold=0.5),
    GraphSettings(k=100),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which SHOP is indexed."""
    store = Store.open(tmp_path_factory.mktemp("built"))
    indexed(store, "shop", SHOP)
    return Path(store.url)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_edges_are_the_nearest_other_items_in_order(shops: Store, settings: GraphSettings) -> None:
    report = GraphStage(shops, "shop", settings).run()

    rows = _rows(shops)
    expected = _expected(shops, SHOP, settings)
    assert rows.schema == SCHEMA
    assert rows.select("src_id", "dst_id", "rank").rows() == [row[:3] for row in expected]
    scores = np.array([row[3] for row in expected])
    np.testing.assert_allclose(rows["similarity"], scores, atol=1e-15)
    np.testing.assert_allclose(rows["distance"] ** 2, 2 - 2 * scores, atol=1e-14)
    assert (report.edges, report.items, report.k) == (len(expected), 6, settings.k)
    assert (report.version, report.changed, report.incremental) == (1, True, False)


def test_edges_are_the_same_on_every_device_and_a_change_of_it_computes_nothing(
    shops: Store,
) -> None:
    settings = GraphSettings(k=3)
    with torch_joins("cpu"), use_device("auto") as used:
        GraphStage(shops, "shop", settings).run()

    again = GraphStage(shops, "shop", settings).run()
    other = GraphStage(shops, "shop", settings, variant="numpy").run()

    assert str(used) == "torch cpu"
    assert not again.changed
    table = graph_table(shops, "shop", "numpy")
    assert table.read(table.at(other.version)).equals(_rows(shops))


def test_copies_are_neighbors_at_distance_zero_and_ties_are_by_id(
    shops: Store,
) -> None:
    GraphStage(shops, "shop", GraphSettings(k=2)).run()

    rows = _rows(shops).filter(pl.col("src_id").is_in(["a", "b", "c"]))
    assert rows.select("src_id", "dst_id", "similarity", "distance").rows() == [
        ("a", "b", 1.0, 0.0),
        ("a", "c", 1.0, 0.0),
        ("b", "a", 1.0, 0.0),
        ("b", "c", 1.0, 0.0),
        ("c", "a", 1.0, 0.0),
        ("c", "b", 1.0, 0.0),
    ]


@pytest.mark.parametrize("images", [{}, {"a": tiny(1)}, {"a": tiny(1), "b": b"no image"}])
def test_single_item_has_no_edges(store: Store, images: Images) -> None:
    indexed(store, "shop", images)

    report = GraphStage(store, "shop", GraphSettings()).run()

    assert (report.edges, report.items) == (0, len(usable(images)))
    assert _rows(store).schema == SCHEMA


@pytest.mark.parametrize("seed", range(2))
def test_incremental_graph_equals_a_rebuild_and_brute_force(
    store: Store, tmp_path: Path, seed: int
) -> None:
    for settings in SETTINGS[1:3]:
        name = f"shop{settings.k}"
        for step, images in enumerate(history(seed, 6, "s")):
            indexed(store, name, images)
            fresh = Store.open(tmp_path / f"fresh{settings.k}{step}")
            indexed(fresh, name, images)

            report = GraphStage(store, name, settings).run()
            GraphStage(fresh, name, settings).run()

            assert report.incremental == (step > 0)
            assert _rows(store, name).equals(_rows(fresh, name))
            rows = _rows(store, name).select("src_id", "dst_id", "rank").rows()
            assert rows == [row[:3] for row in _expected(store, images, settings, name)]


@pytest.mark.slow  # two graphs of 2,000 rows, by blocks of a hundred
@pytest.mark.parametrize("threshold", [None, 0.9])
@pytest.mark.parametrize("dim", [8, 64])
def test_update_of_a_percent_in_many_blocks_equals_a_rebuild(
    store: Store, tmp_path: Path, dim: int, threshold: float | None
) -> None:
    kinds = [families, nearly_equal, constant, lattice, noise]
    rows = np.concatenate([kind(400, dim, seed) for seed, kind in enumerate(kinds)])
    rows = rows[np.random.default_rng(dim).permutation(len(rows))]
    changed = range(7, len(rows), 100)
    # Among the new images are copies of others, and nearly equal ones.
    new = rows.copy()
    new[changed] = np.concatenate([rows[:7], nearly_equal(6, dim, 1), families(7, dim, 9)])
    settings = GraphSettings(k=10, threshold=threshold)
    fresh = Store.open(tmp_path / "fresh")
    write_catalog(store, "shop", rows)
    with small_blocks(128):
        GraphStage(store, "shop", settings).run()
        write_catalog(store, "shop", new, changed)
        report = GraphStage(store, "shop", settings).run()
    write_catalog(fresh, "shop", new, changed)
    GraphStage(fresh, "shop", settings).run()

    assert report.incremental
    assert report.changed
    table = graph_table(store, "shop")
    assert len(table.at(report.version).files_with_role(NEIGHBOR_LISTS)) > 5
    assert _rows(store).equals(_rows(fresh))


def test_unchanged_inputs_commit_nothing(shops: Store) -> None:
    first = GraphStage(shops, "shop", SETTINGS[0]).run()
    indexed(shops, "shop", {**SHOP, "more": b"also no image"})

    second = GraphStage(shops, "shop", SETTINGS[0]).run()

    assert (second.changed, second.version, second.edges) == (False, 1, first.edges)
    assert second.data_version == first.data_version
    assert graph_table(shops, "shop").versions() == [1]


@pytest.mark.parametrize("other", SETTINGS[1:], ids=str)
def test_other_settings_recompute_the_graph(shops: Store, other: GraphSettings) -> None:
    first = GraphStage(shops, "shop", SETTINGS[0]).run()

    report = GraphStage(shops, "shop", other).run()

    assert (report.incremental, report.changed, report.version) == (False, True, 2)
    assert report.data_version != first.data_version
    assert report.edges == len(_expected(shops, SHOP, other))


def test_new_encoder_recomputes_the_graph(store: Store) -> None:
    for version in ("1", "2"):
        indexed(store, "shop", SHOP, THUMBNAIL.model_copy(update={"version": version}))
        report = GraphStage(store, "shop", SETTINGS[0]).run()

    assert (report.incremental, report.version) == (False, 2)


def test_graph_uses_the_committed_index_and_records_its_version(shops: Store) -> None:
    embed_shards(shops, "shop", THUMBNAIL, fill(shops, "shop", {"a": tiny(1), "b": tiny(2)}))

    report = GraphStage(shops, "shop", SETTINGS[0]).run()

    commit = graph_table(shops, "shop").latest()
    assert report.items == 6
    assert commit is not None
    assert commit.inputs == {"shop/index": 1}


def test_graph_without_an_index_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="shop/index has no version yet; materialize it first"):
        GraphStage(store, "shop", GraphSettings()).run()


def test_damaged_cached_files_cause_a_full_computation(shops: Store) -> None:
    GraphStage(shops, "shop", SETTINGS[1]).run()
    _damage(shops, NEIGHBOR_LISTS)
    more = {**SHOP, "g": tiny(3)}
    indexed(shops, "shop", more)

    report = GraphStage(shops, "shop", SETTINGS[1]).run()

    assert not report.incremental
    rows = _rows(shops).select("src_id", "dst_id", "rank").rows()
    assert rows == [row[:3] for row in _expected(shops, more, SETTINGS[1])]


def test_run_without_a_change_reads_no_vectors(shops: Store) -> None:
    GraphStage(shops, "shop", SETTINGS[1]).run()
    for vectors in Path(shops.url).glob("shop/*/**/*"):
        if "vectors" in vectors.parts or vectors.suffix == ".faiss":
            vectors.unlink() if vectors.is_file() else None

    assert not GraphStage(shops, "shop", SETTINGS[1]).run().changed


def test_damaged_graph_is_recomputed_by_the_next_run(shops: Store) -> None:
    GraphStage(shops, "shop", SETTINGS[1]).run()
    before = _rows(shops)
    _damage(shops)

    GraphStage(shops, "shop", SETTINGS[1]).run()

    assert _rows(shops).equals(before)


def _rows(store: Store, name: str = "shop") -> pl.DataFrame:
    table = graph_table(store, name)
    commit = table.latest()
    assert commit is not None
    return table.read(commit)


def _damage(store: Store, role: str = ROWS) -> Path:
    table = graph_table(store, "shop")
    commit = table.latest()
    file = commit.file_with_role(role) if commit is not None else None
    assert file is not None
    return flip_bit(store, table, file)


def _expected(
    store: Store, images: Images, settings: GraphSettings, name: str = "shop"
) -> list[tuple[str, str, int, float]]:
    """src_id, dst_id, rank and similarity of the edges, by definition."""
    ids = usable(images)
    scores = similarity(store, name, images, name, images)
    threshold = -1 if settings.threshold is None else settings.threshold
    edges = []
    for item, row in zip(ids, scores.tolist(), strict=True):
        others = [(score, other) for score, other in zip(row, ids, strict=True) if other != item]
        others.sort(key=lambda pair: (-pair[0], pair[1]))
        edges += [
            (item, other, position + 1, score)
            for position, (score, other) in enumerate(others[: settings.k])
            if score >= threshold
        ]
    return edges
