"""Galleries in a real browser, opened as files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright import sync_api

from imgsim_assets.gallery.document import Gallery
from imgsim_assets.gallery.groups import group_gallery
from imgsim_assets.gallery.items import image_gallery
from imgsim_assets.gallery.page import write_gallery
from imgsim_assets.gallery.pairs import match_gallery
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.browser import PATIENCE_MS, needs_chromium
from imgsim_assets_tests.support.images import jpeg

HOSTILE = "</script><img src=http://127.0.0.1:9/x onerror=alert(1)>\u202egnp"

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("store"))


def _matches(store: Store, count: int, per_left: int = 1) -> pl.DataFrame:
    digests = [store.blobs.put(jpeg(seed)) for seed in range(4)]
    store.blobs.flush()
    numbers = range(count)
    tiers = ["same_bytes", "aligned", "similar"]
    return pl.DataFrame(
        {
            "left_id": [f"L{number // per_left}" for number in numbers],
            "right_id": [f"R{number}" for number in numbers],
            "similarity": [1 - number / (2 * count) for number in numbers],
            "rank": [number % per_left + 1 for number in numbers],
            "left_image": [0] * count,
            "right_image": [0] * count,
            "left_sha256": [digests[number // per_left % 4] for number in numbers],
            "right_sha256": [digests[number % 4] for number in numbers],
            "evidence": [tiers[number % 3] for number in numbers],
            "verdict": [None if number % 2 else "match" for number in numbers],
            "left_title": [HOSTILE if number == 1 else f"shoe {number}" for number in numbers],
            "right_title": [f"boot {number}" for number in numbers],
            "right_url": ["https://shop.example/1", *["javascript:alert(1)"] * (count - 1)],
        }
    )


class _Opened:
    """A gallery that is open in a browser, with everything that went wrong in it."""

    def __init__(self, browser: sync_api.Browser, path: Path, width: int = 1200) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.problems: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(path.as_uri())
        self.page.locator("#gallery img").first.wait_for()

    def _note(self, request: sync_api.Request) -> None:
        if not request.url.startswith(("data:", "file:")):
            self.problems.append(request.url)

    @property
    def count(self) -> str:
        return self.page.locator("#count").inner_text()

    def ids(self) -> list[str]:
        return self.page.locator("#gallery figcaption").all_inner_texts()

    def choose(self, name: str, value: str) -> None:
        self.page.locator(f"select[name={name}]").select_option(value)

    def violations(self) -> list[str]:
        found = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]


def test_pairs_are_filtered_sorted_and_searched(
    browser: sync_api.Browser, store: Store, tmp_path: Path
) -> None:
    gallery = match_gallery(store, _matches(store, 30), title="pairs")
    opened = _Opened(browser, write_gallery(gallery, tmp_path / "pairs.html"))

    assert opened.count == "30 pairs"
    opened.choose("evidence", "aligned")
    assert opened.count == "10 of 30 pairs"
    opened.choose("verdict", "(none)")
    assert opened.count == "5 of 30 pairs"
    opened.choose("order", "farthest")
    assert opened.ids()[:2] == ["L25", "R25"]
    opened.page.get_by_role("button", name="Reset").click()
    opened.page.get_by_role("searchbox").fill("SHOE 12")
    assert opened.count == "1 of 30 pairs"
    assert opened.ids() == ["L12", "R12"]
    opened.page.get_by_role("searchbox").fill("")
    opened.page.get_by_role("slider").evaluate(
        "(slider) => { slider.value = 0.9;"
        " slider.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    assert opened.count == "7 of 30 pairs"
    opened.page.get_by_role("searchbox").fill("nothing like it")
    opened.page.get_by_text("Nothing passes the filters.").wait_for()
    assert opened.problems == []


def test_text_of_others_is_shown_and_runs_nothing(
    browser: sync_api.Browser, store: Store, tmp_path: Path
) -> None:
    gallery = match_gallery(store, _matches(store, 4), title=HOSTILE, labels=(HOSTILE, "right"))
    opened = _Opened(browser, write_gallery(gallery, tmp_path / "pairs.html"))

    shown = opened.page.locator("#gallery").inner_text()

    assert "</script><img src=http://127.0.0.1:9/x onerror=alert(1)>" in shown
    assert "\u202e" not in shown
    assert opened.page.locator("a[href^='javascript']").count() == 0
    assert opened.page.locator("#gallery a").get_attribute("href") == "https://shop.example/1"
    assert opened.problems == []


def test_the_policy_of_a_page_refuses_scripts_and_requests_that_are_not_its_own(
    browser: sync_api.Browser, store: Store, tmp_path: Path
) -> None:
    gallery = match_gallery(store, _matches(store, 2), title="pairs")
    path = write_gallery(gallery, tmp_path / "pairs.html")
    injected = "<script>window.ran = 1</script><img src='http://127.0.0.1:9/x'></body>"
    path.write_text(path.read_text().replace("</body>", injected))

    opened = _Opened(browser, path)

    assert opened.page.evaluate("window.ran") is None
    assert len([each for each in opened.problems if "Content Security Policy" in each]) == 2


def test_keys_walk_over_candidates_and_columns_open(
    browser: sync_api.Browser, store: Store, tmp_path: Path
) -> None:
    gallery = match_gallery(store, _matches(store, 60, per_left=3), title="pairs")
    opened = _Opened(browser, write_gallery(gallery, tmp_path / "pairs.html"))
    focused = "document.activeElement.getAttribute('aria-label')"

    assert opened.count == "60 pairs, 20 items"
    for key, expected in [("j", "L0"), ("j", "L1"), ("k", "L0")]:
        opened.page.keyboard.press(key)
        opened.page.wait_for_function(f"{focused} === '{expected} and 3 others'")
    for _ in range(30):
        opened.page.keyboard.press("j")
    opened.page.wait_for_function(f"{focused} === 'L19 and 3 others'")
    opened.page.keyboard.press("/")
    opened.page.keyboard.type("boot 59")
    opened.page.keyboard.press("Escape")
    opened.page.wait_for_function(f"{focused} === 'L19 and another'")
    opened.page.get_by_text("columns").press("Enter")
    opened.page.get_by_role("cell", name="boot 59").first.wait_for()
    assert opened.problems == []


def test_an_item_with_many_candidates_shows_them_in_parts(
    browser: sync_api.Browser, store: Store, tmp_path: Path
) -> None:
    gallery = match_gallery(store, _matches(store, 130, per_left=130), title="pairs")
    opened = _Opened(browser, write_gallery(gallery, tmp_path / "pairs.html"))
    entries = opened.page.locator("#gallery li")

    assert opened.count == "130 pairs, 1 item"
    assert entries.count() == 60
    opened.page.get_by_role("button", name="Show more, 70 are left").click()
    opened.page.get_by_role("button", name="Show more, 10 are left").click()
    assert entries.count() == 130
    assert opened.page.get_by_role("button", name="Show more").count() == 0
    assert opened.page.evaluate("document.activeElement.innerText").startswith("R120")


def test_more_than_two_thousand_pairs_have_their_images_in_a_folder_and_draw_few(
    browser: sync_api.Browser, store: Store, tmp_path: Path
) -> None:
    gallery = match_gallery(store, _matches(store, 2001), title="pairs")
    path = write_gallery(gallery, tmp_path / "many pairs.html")

    opened = _Opened(browser, path)

    assert len(list((tmp_path / "many pairs_files").iterdir())) == 4
    assert "data:image" not in path.read_text()
    opened.page.evaluate("document.images[0].decode()")
    assert opened.page.locator("#gallery img").count() < 300
    opened.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    opened.page.get_by_text("R2000", exact=True).wait_for()
    assert opened.page.locator("#gallery img").count() < 300
    assert opened.problems == []


@pytest.mark.parametrize(
    ("layout", "scheme", "width"),
    [
        ("pairs", "light", 1200),
        ("pairs", "dark", 390),
        ("candidates", "dark", 390),
        ("groups", "light", 390),
        ("items", "dark", 1200),
    ],
)
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    layout: str, scheme: str, width: int, browser: sync_api.Browser, store: Store, tmp_path: Path
) -> None:
    opened = _Opened(browser, write_gallery(_example(layout, store), tmp_path / "p.html"), width)
    opened.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]

    assert opened.violations() == []
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.problems == []


def _example(layout: str, store: Store) -> Gallery:
    matches = _matches(store, 6, per_left=2 if layout == "candidates" else 1)
    if layout in ("pairs", "candidates"):
        return match_gallery(store, matches, title="pairs", labels=("products", "suppliers"))
    if layout == "groups":
        return group_gallery(store, _members(matches), title="groups")
    images = pl.DataFrame(
        {
            "id": ["a" * 90, "b"],
            "image": [0, 1],
            "sha256": [matches["left_sha256"][0], None],
            "url": ["https://shop.example/", HOSTILE],
        }
    )
    return image_gallery(store, images, title="items")


def _members(matches: pl.DataFrame) -> pl.DataFrame:
    return matches.select(
        group_id=pl.col("left_id"),
        id=pl.col("right_id"),
        image=pl.col("right_image"),
        sha256=pl.col("right_sha256"),
        similarity=pl.col("similarity"),
        size=pl.lit(1),
        min_similarity=pl.col("similarity"),
        mean_similarity=pl.col("similarity"),
        bridges=pl.lit(1),
        is_canonical=pl.lit(True),
        keep=pl.col("verdict").is_null(),
        reason=pl.lit("kept: fetched first"),
        title=pl.col("left_title"),
    )
