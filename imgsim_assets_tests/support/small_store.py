"""A small store with every kind of table and file, and a history of several versions."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EvaluationSettings
from imgsim_assets.gallery.thumbnail_table import IMAGE_THUMBNAILS
from imgsim_assets.gallery.versions import keep_gallery
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.reviewed import Reviewed
from imgsim_assets.pipeline.reviews import import_reviews
from imgsim_assets.pipeline.settings import CatalogSettings, MatchMatrixSettings
from imgsim_assets.pipeline.shards import ShardReports
from imgsim_assets.progress import Log, silent
from imgsim_assets.reviews.table import DIFFERENT, MATCH, REVIEWS
from imgsim_assets.similarity import decided_threshold, review_threshold
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.evidence.table import IMAGE_FEATURES
from imgsim_assets.similarity.review_threshold import THRESHOLDS
from imgsim_assets.similarity.settings import (
    CrossCatalogGroupSettings,
    GraphSettings,
    GroupSettings,
)
from imgsim_assets.storage.pack_index import PackIndex
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, sha256_of, tiny
from imgsim_assets_tests.support.web import Respond

SHARDS = 2
_CATALOGS = ("products", "suppliers")
# So few decisions are enough here to give a threshold.
_MIN_DECISIONS = 3
_FIRST_DECISION = datetime(2026, 1, 1, tzinfo=UTC)
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

    def judge(
        self, name: str, version: int, left: Mapping[str, int], right: Mapping[str, int]
    ) -> None:
        """Write the decisions about all pairs: ids, each with the number of its image."""
        decided_at = _FIRST_DECISION + timedelta(days=version)
        with (self.folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            sides = ("left_id", "right_id", "left_sha256", "right_sha256")
            writer.writerow([*sides, "verdict", "decided_at"])
            for pair in product(left, right):
                seeds = left[pair[0]], right[pair[1]]
                images = (sha256_of(tiny(seed)) for seed in seeds)
                verdict = MATCH if seeds[0] == seeds[1] else DIFFERENT
                writer.writerow([*pair, *images, verdict, decided_at.isoformat()])

    def declare_version(self, version: int) -> None:
        """Write the lists and the decisions: a step adds, changes and removes some of them."""
        products = {(number + version) % 30: (number + version) % 30 for number in range(8)}
        products[version % 8 + 40] = version % 30
        suppliers = {number + version % 3: (number + version) % 30 for number in range(5, 12)}
        self.declare("products", products)
        self.declare("suppliers", suppliers)
        left, right = (
            {f"{name} {number}": seed for number, seed in items.items()}
            for name, items in zip(_CATALOGS, (products, suppliers), strict=True)
        )
        self.judge("judged", version, left, right)
        first, last = sorted(left)[:1], sorted(left)[-1:]
        self.judge(
            "groups", version, *({each: left[each] for each in ids} for ids in (first, last))
        )

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
        pipelines = {name: self.pipeline(store, name, log) for name in _CATALOGS}
        for pipeline in pipelines.values():
            pipeline.ingest(allow_removals=True)
            _raise_first(pipeline.fetch(pipeline.shards))
            _raise_first(pipeline.embed(pipeline.shards))
            pipeline.index()
        now = datetime.now(UTC)
        for name, catalogs in {"groups/products": _CATALOGS[:1], "judged": _CATALOGS}.items():
            path = self.folder / f"{name.partition('/')[0]}.csv"
            import_reviews(store, Reviewed(name, catalogs), path, now=now)
        for pipeline in pipelines.values():
            pipeline.graph()
            pipeline.groups()
            pipeline.evaluate()
        self._match(store)
        across = CrossCatalogGroupSettings(threshold=0.9, canonical=("catalog_order", *_CANONICAL))
        GroupStage(store, "both", across, catalogs=_CATALOGS).run()

    def _match(self, store: Store) -> None:
        """Update the match tables, and the gallery of one of them."""
        evidence = EvidenceSettings(
            compute=True, require="similar", min_similarity=-1, max_candidates=2
        )
        tables = (
            {"name": "pair", "mode": "mutual", "threshold": 0.5},
            {"name": "judged", "mode": "all", "threshold": "auto"},
            {"name": "near", "mode": "mutual", "threshold": 0.5, "method": "approximate"},
            {"name": "evident", "threshold": 0.5, "evidence": evidence, "orientations": True},
        )
        few = [
            patch.object(module, "MIN_PAIRS", _MIN_DECISIONS)
            for module in (decided_threshold, review_threshold)
        ]
        with few[0], few[1]:
            for table in tables:
                settings = MatchMatrixSettings(left=_CATALOGS[0], right=_CATALOGS[1], **table)
                report = MatchPipeline(
                    store, settings, encoders=dict.fromkeys(_CATALOGS, THUMBNAIL)
                ).run()
        keep_gallery(store, "matches/evident", report.version)

    def pipeline(self, store: Store, name: str, log: Log) -> CatalogPipeline:
        """The pipeline of one catalog; what the suppliers have is approximate."""
        is_exact = name == "products"
        method = "exact" if is_exact else "approximate"
        settings = CatalogSettings(
            name=name,
            source=SourceSettings(path=f"{name}.csv"),
            shards=SHARDS,
            encoder=THUMBNAIL,
            download=DownloadSettings(
                allowed_hosts=(self.host,), retries=0, max_requests_per_second_per_host=1000
            ),
            index=IndexSettings(kind="flat" if is_exact else "ivf", min_items=2),
            graph=GraphSettings(k=2, method=method),
            groups=GroupSettings(threshold=0.9, canonical=_CANONICAL, method=method),
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

    Of the vectors, those of images that the catalog has now; of decisions, the last ones. What
    depends on earlier versions, too, has no rows. `without` leaves out one table.
    """
    found = {name: _rows(store, name) for name in store.table_names() if name != without}
    for name, rows in found.items():
        catalog, is_vectors, _ = name.partition("/vectors/")
        if is_vectors:
            found[name] = rows.join(found[f"{catalog}/embeddings"], on="sha256", how="semi")
        elif name.startswith(f"{REVIEWS}/"):
            found[name] = rows.filter(pl.col("decided_at") == pl.col("decided_at").max())
        elif catalog.partition("/")[0] in (IMAGE_FEATURES, IMAGE_THUMBNAILS, THRESHOLDS):
            found[name] = rows.clear()
    return found


def _rows(store: Store, name: str) -> pl.DataFrame:
    newest = store.table(name).latest()
    assert newest is not None
    rows = store.table(name, key=newest.key).read(newest)
    columns = sorted(set(rows.columns) - _PROVENANCE)
    return rows.select(columns).sort(
        [column for column in columns if not rows.schema[column].is_nested()]
    )
