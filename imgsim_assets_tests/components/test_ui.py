"""What a person sees in Dagster's web server, looked at with a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from playwright import sync_api

from imgsim_assets_tests.support.browser import PATIENCE_MS, needs_chromium, open_browser
from imgsim_assets_tests.support.encoders import COUNTER
from imgsim_assets_tests.support.processes import BUSY_S
from imgsim_assets_tests.support.servers import Servers
from imgsim_assets_tests.support.shop import Shop
from imgsim_assets_tests.support.web import Web

# An id that Markdown would render as an image.
BEACON = "![t](http://127.0.0.1:9/beacon.png)"

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The daemon and web server of a shop that was materialized once."""
    with Web() as web, pytest.MonkeyPatch.context() as patch:
        shop = Shop.open(tmp_path_factory.mktemp("ui"), web)
        patch.setenv(COUNTER, str(shop.counter))
        shop.put_item(BEACON, 1)
        shop.put_item(f"{BEACON} gone", 900)
        del web.pages["/p900.jpg"]
        assert shop.project.materialize()
        servers = Servers(shop.project, shop.environment())
        servers.start()
        try:
            yield servers
        finally:
            servers.stop()


@pytest.fixture(scope="module")
def page(servers: Servers) -> Iterator[sync_api.Page]:
    """A browser page at the web server."""
    with open_browser() as browser:
        opened = browser.new_page(base_url=servers.url, viewport={"width": 1600, "height": 1200})
        opened.set_default_timeout(PATIENCE_MS)
        yield opened


@pytest.mark.parametrize("asset", ["matches/pair", "products/similarity_graph"])
def test_histogram_is_drawn_and_contact_sheet_is_linked(page: sync_api.Page, asset: str) -> None:
    page.goto(f"/assets/{asset}?view=events")
    row = page.locator("tr", has=page.get_by_text("similarity_histogram", exact=True))
    image = row.locator("img").first
    image.wait_for(state="attached")
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    row = page.locator("tr", has=page.get_by_text("contact_sheet", exact=True))
    link = row.locator("a").first.get_attribute("href") or ""
    assert Path(url2pathname(urlsplit(link).path)).read_bytes().startswith(b"\xff\xd8")
    assert page.get_by_text("[Show Markdown]").count() == 0


@pytest.mark.parametrize(
    "path",
    [
        "/assets/products/items?view=events",
        "/assets/products/status?view=events",
        "/assets/products/similarity_graph?view=events",
        "/assets/products/items?view=checks",
        "/assets/matches/pair?view=events",
    ],
)
def test_text_of_a_catalog_is_shown_and_not_rendered(page: sync_api.Page, path: str) -> None:
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(path)
    page.get_by_text("ids_unique" if "checks" in path else BEACON).first.wait_for()

    assert not [url for url in requested if "beacon" in url]
    assert page.locator('img[src*="beacon"], a[href*="beacon"]').count() == 0


def test_each_shard_shows_its_own_rows_and_statuses(page: sync_api.Page) -> None:
    page.goto("/assets/products/images?view=partitions&partition=001")

    page.get_by_text("dagster/row_count").first.wait_for()
    chart = page.locator('img[alt="images by status"]').first
    chart.wait_for(state="attached")
    assert chart.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    for shard in ("000", "001", "002"):
        assert page.get_by_text(shard, exact=True).count() >= 1


def test_the_lineage_shows_both_catalogs_and_their_match_table(page: sync_api.Page) -> None:
    page.goto("/asset-groups")

    for name in ("products", "suppliers", "matches"):
        page.get_by_text(name).first.wait_for()


def test_the_checks_of_a_match_table_are_listed_and_passed(page: sync_api.Page) -> None:
    page.goto("/assets/matches/pair?view=checks")

    for check in ("agrees_with_brute_force", "at_or_above_threshold"):
        page.get_by_text(check).first.wait_for()
    page.get_by_text("Succeeded").first.wait_for()


def test_a_backfill_is_launched_by_hand_and_followed_to_its_end(
    page: sync_api.Page, servers: Servers
) -> None:
    page.goto("/assets/products/images")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="All", exact=True).click()
    dialog.get_by_role("button", name="Launch backfill").click()
    (backfill,) = servers.wait_for(servers.backfills, "the backfill")

    page.goto(f"/runs/b/{backfill}")

    page.get_by_text("100% completed").wait_for(timeout=BUSY_S * 1000)
    assert servers.ended(backfill) == "COMPLETED_SUCCESS"


def test_the_automation_page_shows_the_sensor_switched_on(page: sync_api.Page) -> None:
    page.goto("/automation")

    page.get_by_text("imgsim_automation").first.wait_for()
    switch = page.locator('input[type="checkbox"]:checked').first
    switch.wait_for(state="attached")
