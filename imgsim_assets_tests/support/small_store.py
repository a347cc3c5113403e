"""A small store with every kind of table and file, and a history of several versions."""

from __future__ import annotations

import csv
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
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, tiny
from imgsim_assets_tests.support.web import Web

SHARDS = 2
# Columns that say when and how a row was made, not what it is.
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
    """Two catalogs behind a web server, with everything that can be computed from them."""

    def __init__(self, folder: Path, web: Web) -> None:
        self.folder = folder
        self.web = web
        for seed in range(40):
            web.pages.setdefault(f"/{seed}.png", tiny(seed))
        self.declare("products", dict.fromkeys(range(8)))
        self.declare("suppliers", dict.fromkeys(range(5, 12)))

    def declare(self, name: str, items: dict[int, int | None]) -> None:
        """Write the list of a catalog: an item for each number, with its image or another's."""
        with (self.folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "url"])
            for number, image in items.items():
                seed = number if image is None else image
                writer.writerow([f"{name} {number}", self.web.url(f"/{seed}.png")])
            writer.writerow(["rejected", ""])

    def build(self, store: Store) -> None:
        """Materialize several versions, of which the last one is that of the lists now."""
        self.materialize(store)
        self.declare("products", {**dict.fromkeys(range(1, 9)), 3: 20, 30: 5})
        self.declare("suppliers", {**dict.fromkeys(range(5, 13)), 6: 21})
        self.materialize(store)
        index = Store.open(store.url).blobs._index
        index.refresh()
        index.compact(at_least=1)

    def materialize(self, store: Store, *, log: Log = silent) -> None:
        """Run every stage of everything, in order; the first error is raised."""
        for name, kind in (("products", "flat"), ("suppliers", "ivf")):
            pipeline = self.pipeline(store, name, kind, log)
            pipeline.ingest()
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
        across = CrossCatalogGroupSettings(threshold=0.9)
        GroupStage(store, "both", across, catalogs=["products", "suppliers"]).run()

    def pipeline(self, store: Store, name: str, kind: str, log: Log) -> CatalogPipeline:
        """The pipeline of one catalog."""
        settings = CatalogSettings(
            name=name,
            source=SourceSettings(path=f"{name}.csv"),
            shards=SHARDS,
            encoder=THUMBNAIL,
            download=DownloadSettings(allowed_hosts=(self.web.address,), retries=0),
            index=IndexSettings(kind=kind, min_items=2),
            graph=GraphSettings(k=2),
            groups=GroupSettings(threshold=0.9),
            evaluation=EvaluationSettings(sample_size=4),
        )
        return CatalogPipeline(store, settings, root=self.folder, log=log)


def _raise_first(reports: ShardReports[Any]) -> None:
    for error in reports.failed.values():
        raise error


def contents(store: Store) -> dict[str, pl.DataFrame]:
    """The rows of the newest version of every table, without what tells when and how.

    Of the vectors, those of images that the catalog has now.
    """
    found = {name: _rows(store, name) for name in store.table_names()}
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
