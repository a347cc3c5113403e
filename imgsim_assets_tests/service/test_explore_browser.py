"""Explore in a browser: keys, dropped images, decisions, copies, and what axe-core finds."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, quote

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright import sync_api

from imgsim_assets.reviews.table import group_reviews_table
from imgsim_assets.service.run import create_server, listen
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.browsed_store import HOSTILE_ID, LOGO, build
from imgsim_assets_tests.support.browser import PATIENCE_MS, needs_chromium
from imgsim_assets_tests.support.catalogs import sha256_of, tiny

pytestmark = needs_chromium

_PATHS = [
    "products",
    "products?column=price&op=at_least&value=5",
    "products?column=nothing&op=equals&value=5",
    f"products/item?id={quote(HOSTILE_ID, safe='')}",
    "products/item?id=x2&via=p00",
    "products/search?q=p1",
    "products/groups",
    "products/failures",
    "products/placeholders",
    "nothing",
]
# Drops a file on the page, as a person does from a folder.
_DROP = """([name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const dropped = new DataTransfer();
  dropped.items.add(new File([bytes], name, { type: "image/png" }));
  const options = { dataTransfer: dropped, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("drop", options));
}"""


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("browsed"))


@pytest.fixture(scope="module")
def url(browsed: Store) -> Iterator[str]:
    settings = ServeSettings(port=0)
    server: uvicorn.Server = create_server(browsed, settings)
    with listen(settings) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{port}/explore/"
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(browser: sync_api.Browser, url: str) -> Iterator[sync_api.Page]:
    context = browser.new_context(base_url=url, permissions=["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    context.close()


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), pytest.param("dark", 390, marks=pytest.mark.slow)]
)
def test_axe_finds_nothing_and_nothing_of_others_runs(
    browser: sync_api.Browser, url: str, scheme: str, width: int
) -> None:
    context = browser.new_context(
        base_url=url,
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": 900},
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    problems: list[str] = []
    requested: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if "Policy" in said.text else None)
    page.on("request", lambda request: requested.append(request.url))
    axe = Axe()
    for path in _PATHS:
        page.goto(path)
        page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        found = axe.run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert "imgsim" in page.title()
    assert problems == []
    origin = url.removesuffix("explore/")
    assert [each for each in requested if not each.startswith((origin, "data:"))] == []
    context.close()


def test_the_graph_is_walked_by_keys_alone(page: sync_api.Page) -> None:
    page.goto("products/item?id=p00")
    page.keyboard.press("1")
    page.wait_for_url("**/item?id=p02&via=p00")
    page.keyboard.press("2")
    page.wait_for_url("**&via=p00&via=p02")

    page.keyboard.press("b")
    page.wait_for_url("**/item?id=p02&via=p00")
    page.keyboard.press("b")
    page.wait_for_url("**/item?id=p00")

    page.goto("products")
    page.keyboard.press("n")
    page.wait_for_url("**/products?after=*")
    page.keyboard.press("/")
    page.keyboard.type("p1n")
    assert page.locator("#q").input_value() == "p1n"


def test_a_dropped_image_is_searched_for(page: sync_api.Page) -> None:
    page.goto("products/search")
    page.evaluate(_DROP, ["copy.png", base64.b64encode(tiny(3)).decode()])

    page.get_by_role("heading", name="Most similar items").wait_for()
    first = page.locator("section .item").first
    assert "p03" in first.inner_text()
    assert "1.0000" in first.inner_text()


def test_an_image_above_the_limit_is_not_sent(page: sync_api.Page) -> None:
    page.goto("products/search")
    page.evaluate("document.querySelector('[data-drop]').dataset.maxBytes = 10")
    page.evaluate(_DROP, ["large.png", base64.b64encode(tiny(3)).decode()])

    page.get_by_text("more than 10 bytes").wait_for()


def test_a_pair_is_judged_and_the_decision_holds(page: sync_api.Page, browsed: Store) -> None:
    page.goto("products/groups?group=p00")
    different = page.get_by_role("button", name="Different").first
    different.click()
    page.get_by_text("Give your name first").wait_for()
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Your name").press("Tab")
    different.press("Enter")
    page.get_by_text("Recorded: different").wait_for()

    page.reload()
    assert page.get_by_label("Your name").input_value() == "Ada"
    assert different.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Undo").first.click()
    page.get_by_text("taken back").wait_for()
    page.reload()
    assert different.get_attribute("aria-pressed") == "false"
    table = group_reviews_table(browsed, "products")
    commit = table.latest()
    assert commit is not None
    verdicts = table.read(commit).sort("decided_at")["verdict"].to_list()
    assert verdicts == ["different", "cleared"]


def test_decisions_are_sent_one_after_the_other(page: sync_api.Page) -> None:
    held: list[sync_api.Route] = []
    page.goto("products/groups?group=p00")
    page.get_by_label("Your name").fill("Ada")
    action = page.locator("[data-judge]").first.get_attribute("action") or ""
    page.route(lambda url: url.endswith(action), lambda route: held.append(route))

    page.get_by_role("button", name="Different").first.click()
    page.get_by_role("button", name="Same").first.click()
    page.wait_for_timeout(300)  # in which the second would be sent
    assert [_verdict(route) for route in held] == ["different"]
    held[0].fulfill(json={})
    page.get_by_text("Recorded: different").wait_for()
    while len(held) < 2:
        page.wait_for_timeout(20)
    held[1].fulfill(json={})

    page.get_by_text("Recorded: match").wait_for()
    assert _verdict(held[1]) == "match"


def _verdict(route: sync_api.Route) -> str:
    (verdict,) = parse_qs(route.request.post_data or "")["verdict"]
    return verdict


def test_the_line_of_a_shared_image_is_copied(page: sync_api.Page) -> None:
    page.goto("products/placeholders")
    page.get_by_role("button", name="Copy the line").click()

    page.get_by_text("The line is copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"{sha256_of(LOGO)},3 items of products"
