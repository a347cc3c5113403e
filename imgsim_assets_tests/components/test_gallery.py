"""`gallery: true` of a match table, through Dagster."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest

from imgsim_assets.components.local_run import LocalRun
from imgsim_assets_tests.support.gallery_pages import GalleryPage
from imgsim_assets_tests.support.materialized_shops import MaterializedShops
from imgsim_assets_tests.support.shop import Shop

KEY = dg.AssetKey(["matches", "pair"])


@pytest.fixture
def shop(materialized_shops: MaterializedShops) -> Shop:
    return materialized_shops.restore(Shop.open)


def _run(shop: Shop) -> None:
    """What `imgsim run` does: materialize what is not up to date."""
    with shop.project.instance() as instance:
        assert LocalRun(shop.project.definitions(), instance).run().succeeded


def _metadata(shop: Shop) -> dict[str, Any]:
    with shop.project.instance() as instance:
        event = instance.get_latest_materialization_event(KEY)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def _page(shop: Shop) -> GalleryPage:
    return GalleryPage.read(urlsplit(_metadata(shop)["gallery"]).path)


def test_each_version_of_a_match_table_has_a_page_that_its_metadata_links(shop: Shop) -> None:
    assert "gallery" not in _metadata(shop)
    shop.declare(pair={"gallery": True})

    _run(shop)  # the table is unchanged, and has a page now

    page = _page(shop)
    assert len(page.rows) == _metadata(shop)["dagster/row_count"] > 0
    assert page.data["labels"] == ["products", "suppliers"]
    assert page.rows[0]["left"]["title"] == "item p1"
    assert None not in [*page.column("left thumbnail"), *page.column("right thumbnail")]
