"""The review page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright import sync_api

from imgsim_assets.reviews.table import read_reviews, reviews_table
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets_tests.support.browser import PATIENCE_MS, needs_chromium
from imgsim_assets_tests.support.review_shop import (
    HOSTILE_ID,
    HOSTILE_TITLE,
    NAME,
    ReviewShop,
    serving,
)

_TABS = ("new", "near", "random", "all", "accepted", "rejected", "unsure", "unmatched")

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def materialized(tmp_path_factory: pytest.TempPathFactory) -> ReviewShop:
    shop = ReviewShop.open(tmp_path_factory.mktemp("shop"))
    with ThreadPoolExecutor(1) as pool:  # Playwright's event loop runs in this thread
        pool.submit(shop.materialize).result()
    return shop


@pytest.fixture
def shop(materialized: ReviewShop, tmp_path: Path) -> ReviewShop:
    return materialized.copied_to(tmp_path / "shop")


@pytest.fixture
def address(shop: ReviewShop) -> Iterator[str]:
    with serving(shop.store) as url:
        yield f"{url}/review/{NAME}"


@pytest.fixture
def page(browser: sync_api.Browser, address: str) -> Iterator[sync_api.Page]:
    """A page that fails the test when a script fails, a dialog opens or the policy is broken."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("dialog", lambda dialog: problems.append(dialog.message))
    opened.on("console", lambda said: problems.append(said.text) if _is_problem(said) else None)
    yield opened
    context.close()
    assert problems == []


def _is_problem(said: sync_api.ConsoleMessage) -> bool:
    """Whether a console message is an error, other than a status that a test answers with."""
    return said.type == "error" and "503" not in said.text


def _open(page: sync_api.Page, address: str, query: str = "") -> None:
    page.goto(address + query)
    page.locator("#candidates button, #empty:not([hidden], [aria-busy])").first.wait_for()


def _position(page: sync_api.Page) -> str:
    return page.locator("#position").inner_text()


def _wait_until_saved(page: sync_api.Page) -> None:
    sync_api.expect(page.locator("#saving")).to_be_empty()


def _wait_for_version(page: sync_api.Page, address: str, version: int) -> None:
    """Wait until the server has taken over a version of the match table."""
    api = address.replace("/review/", "/api/review/")
    while page.request.get(api).json()["version"] < version:
        page.wait_for_timeout(100)


def _name_reviewer(page: sync_api.Page) -> None:
    page.get_by_label("Name", exact=True).fill("ann")
    page.keyboard.press("Enter")


def test_twenty_pairs_are_judged_by_keyboard_hold_and_decide_the_matches(
    page: sync_api.Page, address: str, shop: ReviewShop
) -> None:
    _open(page, address, "?tab=random")
    verdicts = {"a": "match", "r": "different", "u": "unsure"}
    judged: list[tuple[str, str]] = []
    for number in range(20):
        key = "ararauararararararar"[number]
        left = page.locator(".stage figcaption bdi").first.inner_text()
        page.keyboard.press(key)
        if number == 0:
            _name_reviewer(page)
        sync_api.expect(page.locator("#position")).to_have_text(f"{number + 2} of 24")
        judged.append((left, verdicts[key]))
    sync_api.expect(page.locator("#progress-text")).to_contain_text("20 of 24 judged")
    _wait_until_saved(page)
    page.wait_for_url("**position=20")
    different = {left for left, verdict in judged if verdict == "different"}

    page.reload()

    sync_api.expect(page.locator("#progress-text")).to_contain_text("20 of 24 judged")
    assert _position(page) == "21 of 24"
    table = reviews_table(shop.store, NAME)
    rows = read_reviews(table, table.latest())
    assert dict(rows.select("left_id", "verdict").iter_rows()) == dict(judged)
    assert set(rows["reviewer"]) == {"ann"}
    for step in range(20):
        page.keyboard.press("ArrowUp")
        sync_api.expect(page.locator("#position")).to_have_text(f"{20 - step} of 24")
        verdict = judged[19 - step][1]
        pressed = page.locator(".choice[aria-pressed=true]")
        sync_api.expect(pressed).to_have_attribute("data-verdict", verdict)

    assert shop.match().matches == 24 - len(different)

    _wait_for_version(page, address, 2)
    page.goto(f"{address}?tab=all")
    sync_api.expect(page.locator("#position")).to_contain_text(f"of {24 - len(different)}")
    page.goto(f"{address}?tab=rejected")
    sync_api.expect(page.locator("#position")).to_have_text(f"1 of {len(different)}")


def test_undo_takes_the_last_decision_back(
    page: sync_api.Page, address: str, shop: ReviewShop
) -> None:
    _open(page, address, "?tab=all")
    page.keyboard.press("r")
    _name_reviewer(page)
    sync_api.expect(page.locator("#position")).to_have_text("2 of 24")

    page.keyboard.press("z")

    sync_api.expect(page.locator("#position")).to_have_text("1 of 24")
    _wait_until_saved(page)
    assert page.locator(".choice[aria-pressed=true]").count() == 0
    table = reviews_table(shop.store, NAME)
    assert read_reviews(table, table.latest())["verdict"].to_list() == ["different", "cleared"]


@pytest.mark.parametrize(("key", "field"), [("r", "#reviewer-input"), ("?", "#shortcuts")])
def test_key_pressed_just_after_a_dialog_closes_is_a_shortcut(
    page: sync_api.Page, address: str, key: str, field: str
) -> None:
    _open(page, address, "?tab=all")
    page.keyboard.press(key)
    page.locator(field).focus()

    page.evaluate(
        """(field) => {
          const dialog = document.querySelector(field).closest("dialog");
          const key = new KeyboardEvent("keydown", { key: "j", bubbles: true, cancelable: true });
          dialog.addEventListener("close", () => document.activeElement.dispatchEvent(key));
          dialog.close("cancel");
        }""",
        field,
    )

    sync_api.expect(page.locator("#position")).to_have_text("2 of 24")


def test_candidate_is_chosen_and_judged_by_keyboard(
    page: sync_api.Page, address: str, shop: ReviewShop
) -> None:
    _open(page, address, "?tab=unmatched")
    second = page.locator("#candidates button").nth(1).locator("small").inner_text()

    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    _name_reviewer(page)
    sync_api.expect(page.locator("#position")).to_have_text("2 of 3")
    _wait_until_saved(page)

    table = reviews_table(shop.store, NAME)
    assert read_reviews(table, table.latest())["right_id"].to_list() == [second]


def test_hostile_text_is_shown_as_text(page: sync_api.Page, address: str) -> None:
    _open(page, address, "?tab=all")
    for number in range(24):
        sync_api.expect(page.locator("#position")).to_have_text(f"{number + 1} of 24")
        if page.locator(".stage figcaption bdi").first.inner_text() == HOSTILE_ID:
            break
        page.keyboard.press("ArrowDown")

    cells = page.locator("#comparison td bdi")
    texts = cells.all_inner_texts()
    assert HOSTILE_TITLE in texts
    assert "javascript:alert(3)" in texts
    assert max(map(len, texts)) <= 300
    assert page.locator("a[href^='javascript:' i]").count() == 0
    assert page.locator("img[src=x]").count() == 0
    width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0


def test_columns_are_marked_where_both_items_have_values_that_differ(
    page: sync_api.Page, address: str
) -> None:
    _open(page, address)

    marked = page.evaluate(
        """async () => {
          const { comparison } = await import("/static/pair.js");
          const left = { brand: "A", title: "shoe", price: "1", other_urls: [] };
          const right = { brand: "B", title: "shoe", name: "x", price: "", other_urls: ["b"] };
          const names = comparison(left, right).querySelectorAll("tr.differs th bdi");
          return [...names].map((each) => each.textContent);
        }"""
    )

    assert marked == ["brand"]


def test_threshold_is_dragged_by_keyboard_with_live_counts(
    page: sync_api.Page, address: str
) -> None:
    _open(page, address)
    page.keyboard.press("t")
    slider = page.get_by_role("slider")
    sync_api.expect(slider).to_be_focused()
    matched = page.locator(".figures dd").nth(1)
    sync_api.expect(matched).to_contain_text("24 of 27")
    chosen = page.locator(".histogram .chosen")
    sync_api.expect(chosen).to_have_attribute("visibility", "hidden")

    page.keyboard.press("End")

    sync_api.expect(matched).to_contain_text("0 of 27")
    sync_api.expect(chosen).to_have_attribute("visibility", "visible")
    assert (slider.get_attribute("aria-valuetext") or "").startswith("1.000: 0 of 27")
    page.keyboard.press("Home")
    sync_api.expect(matched).to_contain_text("27 of 27")


def test_failed_decision_is_reported_and_taken_back(page: sync_api.Page, address: str) -> None:
    page.route("**/decisions", lambda route: route.fulfill(status=503, json={"detail": "busy"}))
    _open(page, address, "?tab=all")

    page.keyboard.press("a")
    _name_reviewer(page)

    notice = page.locator(".notice.error")
    sync_api.expect(notice).to_contain_text("was not recorded: busy")
    sync_api.expect(page.locator("#progress-text")).to_contain_text("0 of 24 judged")


@pytest.mark.parametrize("view", ["flicker", "difference", "features"])
def test_views_draw_without_motion_if_the_person_asks_for_none(
    page: sync_api.Page, address: str, view: str
) -> None:
    page.emulate_media(reduced_motion="reduce")
    _open(page, address, "?tab=all")

    page.locator(f"[data-view={view}]").click()

    caption = page.locator(".stage .caption")
    sync_api.expect(caption).not_to_contain_text("ing ")
    if view == "flicker":
        sync_api.expect(caption).to_contain_text("Press F")
        assert page.evaluate(
            "new Promise((done) => { const c = document.querySelector('canvas.single');"
            " const before = c.toDataURL();"
            " setTimeout(() => done(before === c.toDataURL()), 1500); })"
        )


def test_view_draws_nothing_of_the_pair_before_while_it_loads(
    page: sync_api.Page, address: str
) -> None:
    page.emulate_media(reduced_motion="reduce")
    _open(page, address, "?tab=all")
    page.keyboard.press("f")
    caption = page.locator(".stage .caption")
    sync_api.expect(caption).to_contain_text("Press F")
    page.route("**/features?*", lambda route: None)

    page.keyboard.press("j")
    sync_api.expect(caption).to_have_text("Loading the images")
    page.keyboard.press("f")

    assert page.evaluate(
        """() => {
          const { width, height } = document.querySelector("canvas.single");
          const context = document.querySelector("canvas.single").getContext("2d");
          return context.getImageData(0, 0, width, height).data.every((value) => value === 0);
        }"""
    )


def test_page_works_below_a_path_with_a_token_and_a_reviewer_from_the_proxy(
    page: sync_api.Page, shop: ReviewShop
) -> None:
    token = "0123456789abcdef"
    settings = ServeSettings(root_path="/shop", token=token, reviewer_header="X-User")
    page.set_extra_http_headers({"X-User": "bob"})
    with serving(shop.store, settings) as url:
        page.goto(f"{url}/shop/review/{NAME}")
        page.locator("input").first.fill(token)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{url}/shop/")
        _open(page, f"{url}/shop/review/{NAME}", "?tab=all")

        page.keyboard.press("a")

        sync_api.expect(page.locator("#position")).to_have_text("2 of 24")
        _wait_until_saved(page)
        page.goto("about:blank")
    table = reviews_table(shop.store, NAME)
    assert read_reviews(table, table.latest())["reviewer"].to_list() == ["bob"]


def test_decision_waits_for_the_name_that_a_proxy_passes(
    page: sync_api.Page, address: str, shop: ReviewShop
) -> None:
    held: list[sync_api.Route] = []
    page.route(address.replace("/review/", "/api/review/"), lambda route: held.append(route))
    _open(page, address, "?tab=all")

    page.keyboard.press("a")
    page.keyboard.press("j")
    summary = held[0].fetch().json()
    held[0].fulfill(json={**summary, "reviewer": "bob"})

    sync_api.expect(page.locator("#progress-text")).to_contain_text("1 of 24 judged")
    assert _position(page) == "2 of 24"
    _wait_until_saved(page)
    table = reviews_table(shop.store, NAME)
    assert read_reviews(table, table.latest())["verdict"].to_list() == ["match"]


def test_pair_of_the_tab_before_is_neither_judged_nor_hidden_by_a_tab_that_loads(
    page: sync_api.Page, address: str
) -> None:
    held: list[sync_api.Route] = []
    page.route("**/pairs?tab=random*", lambda route: held.append(route))
    _open(page, address, "?tab=all")

    page.get_by_role("link", name="Random").click()
    sync_api.expect(page.locator("#empty")).to_have_text("Loading the pairs")
    page.keyboard.press("a")
    sync_api.expect(page.locator("#reviewer")).to_be_hidden()
    page.get_by_role("link", name="All matches").click()
    sync_api.expect(page.locator("#pair")).to_be_visible()
    page.get_by_role("link", name="Random").click()
    page.get_by_role("link", name="All matches").click()
    sync_api.expect(page.locator("#position")).to_have_text("1 of 24")
    page.wait_for_timeout(600)  # in which the other tab would say that it loads

    sync_api.expect(page.locator("#pair")).to_be_visible()


def test_theme_is_kept_over_a_reload(page: sync_api.Page, address: str) -> None:
    _open(page, address)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)

    page.get_by_role("button", name="Theme: system").click()
    page.get_by_role("button", name="Theme: light").click()
    page.reload()

    sync_api.expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert page.evaluate(ground) != light


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_no_tab_has_a_barrier(page: sync_api.Page, address: str, scheme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    _open(page, address)
    page.keyboard.press("r")
    _name_reviewer(page)
    sync_api.expect(page.locator("#position")).to_have_text("2 of 24")
    _wait_until_saved(page)
    found = {}
    for tab in _TABS:
        _open(page, address, f"?tab={tab}")
        found[tab] = _violations(page)
    page.keyboard.press("t")
    page.get_by_role("slider").wait_for()
    found["threshold"] = _violations(page)
    page.locator("h1").click()
    page.keyboard.press("?")
    found["help"] = _violations(page)

    assert {tab: violations for tab, violations in found.items() if violations} == {}
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def _violations(page: sync_api.Page) -> list[str]:
    violations = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in violations]
