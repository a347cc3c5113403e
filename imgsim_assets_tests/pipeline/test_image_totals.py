"""Totals, failures, retries and checks of a catalog whose items have several images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.pipeline import checks
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.failures import host_counts, read_failures, shown_columns
from imgsim_assets.pipeline.retry import retry_failed
from imgsim_assets.pipeline.run import fetch_and_embed
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.pipeline.status import catalog_status
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.progress import ProgressListener
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL
from imgsim_assets_tests.support.counting_files import CountingFiles
from imgsim_assets_tests.support.damage import remove_blob
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.web import Web

NAME = "shop"
# Every fetched image but the truncated one has a vector.
ITEMS = {
    "1": ["a", "gone", "b"],
    "2": ["page", "a"],
    "3": ["gone"],
    "4": ["cut"],
}


@pytest.fixture
def pipeline(store: Store, web: Web, tmp_path: Path) -> CatalogPipeline:
    """A catalog after its first run."""
    web.pages |= {"/a": jpeg(1), "/b": jpeg(2), "/page": b"<html>", "/cut": jpeg(3)[:900]}
    declared = declare(store, web, tmp_path, ITEMS)
    fetch_and_embed([declared])
    return declared


def declare(
    store: Store, web: Web, folder: Path, items: Mapping[str, list[str]], **options: Any
) -> CatalogPipeline:
    rows = [
        {"id": item, "url": [web.url(f"/{name}") for name in names], "title": f"item {item}"}
        for item, names in items.items()
    ]
    (folder / "shop.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    settings = CatalogSettings(
        name=NAME,
        source=SourceSettings(path="shop.jsonl"),
        shards=2,
        encoder=THUMBNAIL,
        download=DownloadSettings(allowed_hosts=(web.address,), retries=0),
    )
    return CatalogPipeline(store, settings, root=folder, **options)


def test_status_counts_items_and_images_apart(pipeline: CatalogPipeline) -> None:
    status = catalog_status(pipeline.store, NAME)

    assert (status.items, status.usable_items) == (4, 2)
    assert (status.images, status.vectors) == (4, 3)
    assert status.fetch_failures == {"http_404": 2, "not_image": 1}
    assert status.failures == {"http_404": 2, "not_image": 1, "truncated": 1}
    assert status.stages == {"images": "fresh", "embeddings": "fresh"}


def test_images_are_stale_until_a_run_has_their_new_order(
    pipeline: CatalogPipeline, web: Web, tmp_path: Path
) -> None:
    reordered = declare(pipeline.store, web, tmp_path, {**ITEMS, "1": ["b", "a", "gone"]})
    gets = web.total_gets
    reordered.ingest()
    assert catalog_status(pipeline.store, NAME).stages["images"] == "stale"

    fetch_and_embed([reordered])

    assert web.total_gets == gets
    assert set(catalog_status(pipeline.store, NAME).stages.values()) == {"fresh"}


def test_relative_urls_of_a_root_on_the_web_are_fresh(
    store: Store, web: Web, tmp_path: Path
) -> None:
    web.pages |= {"/a": jpeg(1), "/b": jpeg(2)}
    (tmp_path / "shop.jsonl").write_text(json.dumps({"id": "1", "url": ["a", "b"]}))
    settings = CatalogSettings(
        name=NAME,
        source=SourceSettings(path="shop.jsonl", root=web.url("/")),
        encoder=THUMBNAIL,
        download=DownloadSettings(allowed_hosts=(web.address,), retries=0),
    )

    fetch_and_embed([CatalogPipeline(store, settings, root=tmp_path)])

    status = catalog_status(store, NAME)
    assert (status.images, status.stages["images"]) == (2, "fresh")


def test_a_changed_image_that_is_not_the_first_makes_the_images_stale(
    pipeline: CatalogPipeline, web: Web, tmp_path: Path
) -> None:
    declare(pipeline.store, web, tmp_path, {**ITEMS, "2": ["page", "b"]}).ingest()

    assert catalog_status(pipeline.store, NAME).stages["images"] == "stale"


def test_failures_name_the_item_and_the_image(pipeline: CatalogPipeline, web: Web) -> None:
    failures = read_failures(pipeline.store, NAME)

    assert failures.select("stage", "id", "image", "status", "url", "title").rows() == [
        ("images", "1", 1, "http_404", web.url("/gone"), "item 1"),
        ("images", "3", 0, "http_404", web.url("/gone"), "item 3"),
        ("images", "2", 0, "not_image", web.url("/page"), "item 2"),
        ("embeddings", "4", 0, "truncated", web.url("/cut"), "item 4"),
    ]
    assert shown_columns(failures, ["id", "image"]).columns == ["id", "image"]
    assert shown_columns(failures[1:], ["id", "image"]).columns == ["id"]
    assert host_counts(pipeline.store, NAME, 5).rows() == [
        ("127.0.0.1", 7, 3, "http_404 2, not_image 1")
    ]


def test_failed_images_are_retried_and_the_others_are_not(
    pipeline: CatalogPipeline, web: Web
) -> None:
    web.pages["/gone"] = jpeg(4)
    gets = dict(web.gets)
    store = pipeline.store

    report = retry_failed(
        store,
        NAME,
        DownloadSettings(),
        declared=pipeline.settings.download,
        retry="all",
        factory=THUMBNAIL.factory,
    )

    assert (report.retried, report.recovered) == (3, 2)
    changed = {path: count - gets[path] for path, count in web.gets.items()}
    assert changed == {"/a": 0, "/b": 0, "/cut": 0, "/gone": 2, "/page": 1}
    assert catalog_status(store, NAME).usable_items == 3


def test_the_success_rate_is_that_of_images_and_names_items(pipeline: CatalogPipeline) -> None:
    result = checks.success_rate(pipeline.store, NAME, 0.6)

    assert result.problem.startswith("4 of 7 images fetched, less than the 60.0% of ")
    assert result.metadata == {
        "success_rate": round(4 / 7, 4),
        "min": 0.6,
        "ok": 4,
        "images": 7,
        "items": 4,
        "usable_items": 3,
    }
    assert checks.success_rate(pipeline.store, NAME, 0.5).passed


def test_the_success_rate_reads_no_rows_but_of_shards_without_counts(
    pipeline: CatalogPipeline,
) -> None:
    files = CountingFiles(pipeline.store.files)
    recorded = checks.success_rate(Store(files), NAME, 0.6)
    assert not files.rows
    table = ledger_table(pipeline.store, NAME)

    def without_counts(base: Commit | None) -> PendingCommit:
        assert base is not None
        plain = [replace(file, metadata={}) for file in base.files]
        return PendingCommit(plain, base.inputs, base.properties)

    table.commit(without_counts)

    assert checks.success_rate(pipeline.store, NAME, 0.6) == recorded


def test_verify_names_a_missing_image_of_an_item(pipeline: CatalogPipeline) -> None:
    store = pipeline.store
    assert not verify(store).problems
    newest = ledger_table(store, NAME).latest()
    assert newest is not None
    rows = ledger_table(store, NAME).read(newest)
    [sha256] = rows.filter(id="1", image=2)["sha256"]
    remove_blob(store, sha256)

    problems = [problem.message for problem in verify(Store(store.files)).problems]

    assert any(f"item '1', image 2 has no image {sha256}" in message for message in problems)


def test_the_listener_counts_images(pipeline: CatalogPipeline) -> None:
    class Counts(ProgressListener):
        total = fetched_images = embedded_images = 0

        def started(self, name: str, images: int) -> None:
            self.total = images

        def fetched(self, name: str, images: int) -> None:
            self.fetched_images += images

        def embedded(self, name: str, images: int) -> None:
            self.embedded_images += images

    counts = Counts()
    fetch_and_embed([pipeline], listener=counts)

    assert (counts.total, counts.fetched_images, counts.embedded_images) == (7, 7, 7)


def test_a_loader_loads_every_image_of_an_item(store: Store, web: Web, tmp_path: Path) -> None:
    loaded: list[tuple[str, int, str]] = []

    def loader(row: Mapping[str, Any]) -> bytes:
        loaded.append((row["title"], row["image"], row["url"][-1]))
        return jpeg(ord(row["url"][-1]))

    items = {"1": ["a", "b"], "2": ["c"]}
    first = declare(store, web, tmp_path, items, loader=loader)
    fetch_and_embed([first])
    assert sorted(loaded) == [("item 1", 0, "a"), ("item 1", 1, "b"), ("item 2", 0, "c")]
    loaded.clear()

    moved = declare(store, web, tmp_path, {"1": ["d", "b", "a"]}, loader=loader)
    moved.ingest(allow_removals=True)
    reports = moved.fetch(moved.shards).succeeded

    assert loaded == [("item 1", 0, "d")]
    assert sum(report.images for report in reports) == 3
    assert sum(report.removed_items for report in reports) == 1
    assert sum(report.removed_images for report in reports) == 1
    newest = ledger_table(store, NAME).latest()
    assert newest is not None
    rows = ledger_table(store, NAME).read(newest).sort("id", "image")
    assert [url[-1] for url in rows["url"]] == ["d", "b", "a"]
    assert catalog_status(store, NAME).stages["images"] == "fresh"
    assert web.total_gets == 0
