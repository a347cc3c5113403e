"""Images that a list holds itself, and URLs as bytes."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import polars as pl
import pytest

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.stage import ItemsStage
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.file_ages import make_older
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.sources import validate, write


def name_of(image: bytes) -> str:
    """The url of an embedded image."""
    return f"sha256:{hashlib.sha256(image).hexdigest()}"


def test_urls_as_bytes_are_text(tmp_path: Path) -> None:
    pl.DataFrame({"id": ["1"], "url": [b"http://h/1.jpg"]}).write_parquet(tmp_path / "a.parquet")

    assert validate(tmp_path, "a.parquet").rows["url"].to_list() == ["http://h/1.jpg"]


def test_bytes_and_paths_of_hugging_face_are_images(tmp_path: Path) -> None:
    images = [
        {"bytes": jpeg(1), "path": "a.jpg"},
        {"bytes": jpeg(2), "path": "a.jpg"},
        {"bytes": None, "path": "http://h/3.jpg"},
    ]
    pl.DataFrame({"image": images, "label": [0, 1, 2]}).write_parquet(tmp_path / "a.parquet")

    rows = validate(tmp_path, "a.parquet").rows

    assert rows.select("id", "url", "label").rows() == [
        ("a.jpg", name_of(jpeg(1)), 0),
        ("a.jpg#2", name_of(jpeg(2)), 1),
        ("http://h/3.jpg", "http://h/3.jpg", 2),
    ]


def _data_uri(image: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"


def test_data_uris_are_images_and_broken_ones_are_rejected(tmp_path: Path) -> None:
    uris = [_data_uri(jpeg(1)), "data:image/png;base64,@@", "data:image/png;base64", "u"]
    lines = [json.dumps({"id": str(n), "url": uri}) for n, uri in enumerate(uris)]
    write(tmp_path, "a.jsonl", "\n".join(lines))

    result = validate(tmp_path, "a.jsonl")

    assert result.rows.select("id", "url").rows() == [("0", name_of(jpeg(1))), ("3", "u")]
    assert result.rejects.select("line", "reason").rows() == [(2, "bad_url"), (3, "bad_url")]


def test_list_cannot_name_an_image_of_the_store(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", f"id,url\n1,{name_of(b'secret')}\n2,u\n")

    assert validate(tmp_path, "a.csv").rejects["reason"].to_list() == ["unsupported_scheme"]


@pytest.fixture
def pipeline(tmp_path: Path) -> CatalogPipeline:
    images = [{"bytes": jpeg(seed), "path": None} for seed in (1, 2)]
    pl.DataFrame({"id": ["1", "2"], "image": images}).write_parquet(tmp_path / "a.parquet")
    settings = CatalogSettings(name="shop", source=SourceSettings(path="a.parquet"), shards=1)
    return CatalogPipeline(Store.open(tmp_path / "store"), settings, root=tmp_path)


def test_embedded_images_are_stored_without_requests(pipeline: CatalogPipeline) -> None:
    report = pipeline.ingest()
    with pipeline.open_images() as fetch:
        fetched = fetch(*pipeline.shards)

    assert (report.rows, fetched.statuses) == (2, {"ok": 2})
    ledger = ledger_table(pipeline.store, "shop")
    assert [f"sha256:{name}" for name in ledger.read(ledger.at(1))["sha256"]] == [
        name_of(jpeg(1)),
        name_of(jpeg(2)),
    ]
    assert not pipeline.ingest().changed


def test_garbage_collection_keeps_images_that_were_not_fetched_yet(
    pipeline: CatalogPipeline,
) -> None:
    pipeline.ingest()
    make_older(Path(pipeline.store.url), hours=9)
    collect_garbage(Store.open(pipeline.store.url), RetentionPolicy(retain_last=1, min_age_hours=1))

    store = Store.open(pipeline.store.url)
    assert store.blobs.get(name_of(jpeg(1)).removeprefix("sha256:")) == jpeg(1)


def test_rows_of_a_list_without_its_images_do_not_keep_them(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "id,url\n1,u\n")
    store = Store.open(tmp_path / "store")
    settings = SourceSettings(path="a.csv")

    ItemsStage(store, "shop", settings, shards=1, project_root=tmp_path).run()

    latest = store.table("shop/items", key="id").latest()
    assert latest is not None
    assert "refers_to_blobs" not in latest.properties


def test_garbage_collection_keeps_further_images_of_items(tmp_path: Path) -> None:
    images = [[{"bytes": jpeg(seed), "path": None} for seed in (1, 2)]]
    pl.DataFrame({"id": ["1"], "image": images}).write_parquet(tmp_path / "a.parquet")
    store = Store.open(tmp_path / "store")
    source = SourceSettings(path="a.parquet")
    ItemsStage(store, "shop", source, shards=1, project_root=tmp_path).run()
    make_older(Path(store.url), hours=9)

    collect_garbage(Store.open(store.url), RetentionPolicy(retain_last=1, min_age_hours=1))

    kept = Store.open(store.url).blobs
    for seed in (1, 2):
        assert kept.get(name_of(jpeg(seed)).removeprefix("sha256:")) == jpeg(seed)
