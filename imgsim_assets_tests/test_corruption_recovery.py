"""The next run of every stage repairs a damaged file of any table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.stage import ItemsStage
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.encoder import fingerprint
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.index.stage import IndexStage, embedded_images, open_index
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import GraphSettings, MatchSettings
from imgsim_assets.storage.gc import SHA256
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import tables
from imgsim_assets_tests.support.catalogs import THUMBNAIL, embed_shards, tiny
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.downloads import download

VECTORS = f"products/vectors/{fingerprint(THUMBNAIL)}"
SHARDS = [Shard(0, 2), Shard(1, 2)]
# Every kind of file: table and role.
FILES = [
    ("products/items", "rows"),
    ("products/rejects", "rows"),
    ("products/images", "rows"),
    ("products/embeddings", "rows"),
    (VECTORS, "rows"),
    (VECTORS, "keys"),
    ("products/index", "rows"),
    ("products/index", "index"),
    ("products/similarity_graph", "rows"),
    ("products/similarity_graph", "neighbor_lists"),
    ("products/similarity_graph", "left_items"),
    ("products/similarity_graph", "right_items"),
    ("matches/pair", "rows"),
    ("matches/pair", "left_items"),
    ("matches/pair", "right_items"),
    ("matches/pair", "left_neighbor_lists"),
    ("matches/pair", "right_neighbor_lists"),
]
# Columns that say when a row was made, not what it is.
_PROVENANCE = ("fetched_at", "checked_at", "number")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two catalogs with their images, and a store in which every stage has run."""
    folder = tmp_path_factory.mktemp("sources")
    for name, seeds in (("products", range(6)), ("suppliers", range(3, 9))):
        lines = [{"id": f"{name} {seed}", "url": f"{seed}.png"} for seed in seeds]
        body = "\n".join(json.dumps(line) for line in [*lines, {"id": "rejected"}])
        (folder / f"{name}.jsonl").write_text(body)
        for seed in seeds:
            (folder / f"{seed}.png").write_bytes(tiny(seed))
    materialize(Store.open(folder / "store"), folder)
    return folder


@pytest.fixture
def store(sources: Path, tmp_path: Path) -> Store:
    """A copy of the store of the sources, to be damaged."""
    return Store.open(shutil.copytree(sources / "store", tmp_path / "store"))


def test_every_kind_of_file_is_covered(store: Store) -> None:
    found = {
        (name, file.role)
        for name in store.table_names()
        for file in tables.latest_commit(store.table(name)).files
    }
    assert {kind for kind in found if not kind[0].startswith("suppliers/")} == set(FILES)


def test_stages_without_damage_commit_nothing(store: Store, sources: Path) -> None:
    before = versions(store)
    materialize(store, sources)
    assert versions(store) == before


@pytest.mark.parametrize("damage", ["flipped", "missing"])
@pytest.mark.parametrize(("name", "role"), FILES)
def test_the_next_run_repairs_a_damaged_file(
    store: Store, sources: Path, name: str, role: str, damage: str
) -> None:
    before = contents(store)
    table = store.table(name)
    path = flip_bit(store, table, tables.latest_commit(table).files_with_role(role)[0])
    if damage == "missing":
        path.unlink()
    assert not table.verify_checksums(tables.latest_commit(table))

    if name == VECTORS:
        # The damage is found when a vector is read; the message says which asset to materialize.
        vectors = VectorTable(store, "products", fingerprint(THUMBNAIL))
        with pytest.raises(StoreError, match="materialize products/embeddings again"):
            vectors.read(embedded_images(store, "products")[1]["sha256"])
    materialize(store, sources)

    assert contents(store) == before
    versions_after = versions(store)
    materialize(store, sources)
    assert versions(store) == versions_after


def materialize(store: Store, sources: Path) -> None:
    """Run every stage of both catalogs, in order."""
    for name in ("products", "suppliers"):
        settings = SourceSettings(path=f"{name}.jsonl")
        ItemsStage(store, name, settings, shards=len(SHARDS), project_root=sources).run()
        download(store, name, DownloadSettings(), SHARDS)
        embed_shards(store, name, THUMBNAIL, SHARDS)
        IndexStage(store, name).run()
        GraphStage(store, name, GraphSettings(k=2)).run()
    mutual = MatchSettings(mode="mutual", threshold=0.5)
    MatchStage(store, "pair", mutual, left="products", right="suppliers").run()


def versions(store: Store) -> dict[str, list[int]]:
    return {name: store.table(name).versions() for name in store.table_names()}


def contents(store: Store) -> dict[tuple[str, str], object]:
    """The content of the newest versions; asserts that every checksum matches."""
    content: dict[tuple[str, str], object] = {}
    for name in store.table_names():
        table = store.table(name)
        commit = tables.latest_commit(table)
        assert table.verify_checksums(commit)
        for role in {file.role for file in commit.files} - {"index"}:
            rows = pl.concat([table.read_file(file) for file in commit.files_with_role(role)])
            values = rows.drop(_PROVENANCE, strict=False)
            key = SHA256 if "/vectors/" in name else values.columns[0]
            content[name, role] = values.sort(key, maintain_order=True).to_dict(as_series=False)
    for name in ("products", "suppliers"):
        content[name, "index"] = open_index(store, name)[1].vectors().tolist()
    return content
