"""A small store with every kind of table and file, and a history of several versions."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EvaluationSettings
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.settings import CatalogSettings, MatchMatrixSettings
from imgsim_assets.pipeline.shards import ShardReports
from imgsim_assets.progress import Log, silent
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.settings import (
    CrossCatalogGroupSettings,
    GraphSettings,
    GroupSettings,
)
from imgsim_assets.storage.pack_index import PackIndex
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, tiny
from imgsim_assets_tests.support.web import Respond

SHARDS = 2
# Columns that say when and how a row was made, not what it is.
# Without first_seen: an image whose ledger row was lost is fetched and seen once more.
_CANONICAL = ("largest_resolution", "largest_file")
_PROVENANCE = {
    "fetched_at",
    "checked_at",
    "attempts",
    "next_retry_at",
    "number",
    "etag",
    "last_modified",
}


class SmallStore:
    """Two catalogs of images on a web server, with everything that can be computed from them.

    Args:
        folder: Holds the lists of the catalogs.
        host: Address and port of the server, which serves `pages()`.
    """

    def __init__(self, folder: Path, host: str) -> None:
        self.folder = folder
        self.host = host

    def declare(self, name: str, items: Mapping[int, int]) -> None:
        """Write the list of a catalog: items by number, each with the number of its image."""
        with (self.folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "url"])
            for number, seed in items.items():
                writer.writerow([f"{name} {number}", f"http://{self.host}/{seed}.png"])
            writer.writerow(["rejected", ""])

    def declare_version(self, version: int) -> None:
        """Write lists of both catalogs: a step adds, changes and removes some of the items."""
        products = {(number + version) % 30: (number + version) % 30 for number in range(8)}
        suppliers = {number + version % 3: (number + version) % 30 for number in range(5, 12)}
        self.declare("products", {**products, version % 8 + 40: version % 30})
        self.declare("suppliers", suppliers)

    def build(self, store: Store) -> None:
        """Materialize several versions, of which the last one is that of the lists now."""
        for version in (1, 2):
            self.declare_version(version)
            self.materialize(store)
        index = PackIndex(store.files)
        index.refresh()
        index.compact(at_least=1)

    def materialize(self, store: Store, *, log: Log = silent) -> None:
        """Run every stage of everything, in order; the first error is raised."""
        for name in ("products", "suppliers"):
            pipeline = self.pipeline(store, name, log)
            pipeline.ingest(allow_removals=True)
            _raise_first(pipeline.fetch(pipeline.shards))
            _raise_first(pipeline.embed(pipeline.shards))
            pipeline.index()
            pipeline.graph()
            pipeline.groups()
            pipeline.evaluate()
        MatchPipeline(
            store,
            MatchMatrixSettings(
                name="pair", left="products", right="suppliers", mode="mutual", threshold=0.5
            ),
        ).run()
        across = CrossCatalogGroupSettings(threshold=0.9, canonical=("catalog_order", *_CANONICAL))
        GroupStage(store, "both", across, catalogs=["products", "suppliers"]).run()

    def pipeline(self, store: Store, name: str, log: Log) -> CatalogPipeline:
        """The pipeline of one catalog; the suppliers have an approximate index."""
        settings = CatalogSettings(
            name=name,
            source=SourceSettings(path=f"{name}.csv"),
            shards=SHARDS,
            encoder=THUMBNAIL,
            download=DownloadSettings(allowed_hosts=(self.host,), retries=0),
            index=IndexSettings(kind="ivf" if name == "suppliers" else "flat", min_items=2),
            graph=GraphSettings(k=2),
            groups=GroupSettings(threshold=0.9, canonical=_CANONICAL),
            evaluation=EvaluationSettings(sample_size=4),
        )
        return CatalogPipeline(store, settings, root=self.folder, log=log)

    def fresh_contents(self, name: str) -> dict[str, pl.DataFrame]:
        """The contents of a new store, in the folder of a name, that is made from the lists now."""
        store = Store.open(self.folder / name)
        self.materialize(store)
        found = contents(store)
        shutil.rmtree(self.folder / name)
        return found


def pages() -> dict[str, bytes | Respond]:
    """The images that the lists name, by path."""
    return {f"/{seed}.png": tiny(seed) for seed in range(50)}


def _raise_first(reports: ShardReports[Any]) -> None:
    for error in reports.failed.values():
        raise error


def contents(store: Store, *, without: str | None = None) -> dict[str, pl.DataFrame]:
    """The rows of the newest version of every table, without what tells when and how.

    Of the vectors, those of images that the catalog has now. `without` leaves out one table.
    """
    found = {name: _rows(store, name) for name in store.table_names() if name != without}
    for name, rows in found.items():
        catalog, is_vectors, _ = name.partition("/vectors/")
        if is_vectors:
            found[name] = rows.join(found[f"{catalog}/embeddings"], on="sha256", how="semi")
    return found


def _rows(store: Store, name: str) -> pl.DataFrame:
    newest = store.table(name).latest()
    assert newest is not None
    rows = store.table(name, key=newest.key).read(newest)
    columns = sorted(set(rows.columns) - _PROVENANCE)
    return rows.select(columns).sort(
        [column for column in columns if not rows.schema[column].is_nested()]
    )
