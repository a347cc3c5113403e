"""The asset `status`: figures of a whole catalog, over all shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from imgsim_assets.components.image_catalog import status
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web

BEACON = "![t](http://127.0.0.1:9/beacon.png)"


def _with_failures(root: Path, web: Web) -> Shop:
    opened = Shop.open(root, web)
    opened.put_item(BEACON, 500)
    opened.put_item("dead", 501)
    for seed in (500, 501):
        del web.pages[f"/p{seed}.jpg"]
    page = web.pages["/p2.jpg"]
    assert isinstance(page, bytes)
    web.pages["/p2.jpg"] = page[:900]
    return opened


@pytest.fixture
def shop(materialized_shops: MaterializedShops) -> Shop:
    return materialized_shops.restore(_with_failures)


def _status(instance: dg.DagsterInstance) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(dg.AssetKey(["products", "status"]))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def _rows(table: Any) -> list[dict[str, Any]]:
    return [record.data for record in table]


def test_status_counts_all_shards_and_lists_hosts_and_failures(shop: Shop) -> None:
    with shop.project.instance() as instance:
        metadata = _status(instance)

    counts = {name: value for name, value in metadata.items() if isinstance(value, int)}
    assert counts == {
        "items": 14,
        "usable_items": 11,
        "requested": 14,
        "fetched": 12,
        "failed": 2,
        "retryable": 0,
        "embedded": 11,
        "undecodable": 1,
        "rejected_rows": 0,
        "rejected_images": 0,
    }
    assert _rows(metadata["statuses"].records) == [
        {"status": "ok", "count": 12},
        {"status": "http_404", "count": 2},
    ]
    assert _rows(metadata["top_hosts"].records) == [
        {"host": "127.0.0.1", "images": 14, "failed": 2, "failures": "http_404 2"}
    ]
    failures = _rows(metadata["failures"].records)
    assert {row["id"] for row in failures} == {BEACON, "dead", "p2"}
    assert {row["url"] for row in failures} == {
        shop.web.url(f"/p{seed}.jpg") for seed in (2, 500, 501)
    }


def test_unchanged_catalog_keeps_its_status_and_reads_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop.project.instance() as instance:
        before = _status(instance)
        monkeypatch.setattr(status, "_describe", lambda *_: pytest.fail("the tables are read"))
        job = shop.project.definitions().resolve_implicit_global_asset_job_def()
        key = dg.AssetKey(["products", "status"])
        result = job.execute_in_process(instance=instance, asset_selection=[key])

        assert len(result.get_asset_materialization_events()) == 1
        assert _status(instance) == before
