"""The pages under /explore, as a browser without scripts gets them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.reviews.table import group_reviews_table
from imgsim_assets.service.app import create_app
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import tiny_models
from imgsim_assets_tests.support.browsed_store import (
    HOSTILE_ID,
    HOSTILE_URL,
    ITEMS,
    LOGO,
    PASSWORD,
    SCRIPT,
    build,
    catalog,
)
from imgsim_assets_tests.support.catalogs import sha256_of, tiny

_PAGES = ("", "/search", "/groups", "/failures", "/placeholders")


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("browsed"))


@pytest.fixture(scope="module")
def client(browsed: Store) -> Iterator[TestClient]:
    settings = ServeSettings(dagster_url="http://127.0.0.1:3000")
    with TestClient(create_app(browsed, settings), base_url="http://localhost") as opened:
        yield opened


def page(client: TestClient, path: str, code: int = 200, **parameters: Any) -> str:
    answer = client.get(f"/explore/{path}", params=parameters, headers={"accept": "text/html"})
    assert answer.status_code == code, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    return answer.text


def items_of(html: str) -> list[str]:
    """The ids of the item pages that a page links to, in its order."""
    links = [urlsplit(unescape(link)) for link in re.findall(r'href="([^"]*/item\?[^"]*)"', html)]
    return list(dict.fromkeys(parse_qs(link.query)["id"][0] for link in links))


def link(html: str, relation: str) -> str | None:
    found = re.search(rf'rel="{relation}"[^>]* href="([^"]*)"', html)
    return unescape(found[1]) if found else None


@pytest.mark.parametrize("path", _PAGES)
def test_every_page_is_served_without_inline_scripts_and_styles(
    client: TestClient, path: str
) -> None:
    html = page(client, f"products{path}")

    assert "<title>" in html
    assert not re.search(r"<script(?![^>]* src=)", html)
    assert not re.search(r"\s(on\w+|style)=", html)
    assert 'aria-current="page"' in html


def test_next_and_previous_walk_through_all_items(client: TestClient) -> None:
    first = page(client, "products")
    following = link(first, "next")
    assert following is not None
    second = client.get(following).text

    assert len(items_of(first)) + len(items_of(second)) == ITEMS
    assert link(second, "next") is None
    back = link(second, "prev")
    assert back is not None
    assert items_of(client.get(back).text) == items_of(first)


def test_filters_narrow_the_items_and_stay_in_the_links(client: TestClient) -> None:
    given: dict[str, Any] = {
        "column": ["price", "title"],
        "op": ["at_least", "contains"],
        "value": ["5", "P0"],
    }
    html = page(client, "products", **given)

    assert items_of(html) == ["p05", "p06", "p07", "p08", "p09"]
    assert "5 items" in html
    assert "column=price&amp;column=title" in html


def test_a_wrong_filter_is_explained_beside_the_form(client: TestClient) -> None:
    html = page(client, "products", column="prise", op="at_least", value="much")

    assert "products has no column &#39;prise&#39;; it has id, url, title" in html
    assert 'value="much"' in html


def test_a_status_narrows_the_items(client: TestClient) -> None:
    assert items_of(page(client, "products", status="http_404")) == ["x1"]


def test_text_of_a_catalog_is_shown_as_text(client: TestClient) -> None:
    html = page(client, "products/item", id=HOSTILE_ID)

    assert SCRIPT not in html
    assert "&lt;script&gt;document.title" in html
    assert "\u202e" not in re.sub(r'(href|value)="[^"]*"', "", html)
    assert f'href="{HOSTILE_URL}' not in html
    assert PASSWORD not in html
    assert "a" * 401 not in html


def test_an_item_links_to_its_neighbors_and_back(client: TestClient) -> None:
    start = page(client, "products/item", id="p00")
    neighbors = [each for each in items_of(start) if each != "p00"]
    assert {"p01", "p02"} <= set(neighbors[:2])
    assert "title of p01" in start

    step = unescape(re.search(r'href="([^"]*)" data-key="1"', start)[1])  # type: ignore[index]
    reached = client.get(step).text

    assert "Back" in reached
    assert items_of(reached)[0] == "p00"
    assert parse_qs(urlsplit(step).query)["via"] == ["p00"]


def test_an_item_shows_matches_groups_and_the_state_of_each_image(client: TestClient) -> None:
    matched = page(client, "products/item", id="p00")
    failed = page(client, "products/item", id="x2")

    assert "/explore/suppliers/item?id=s0" in matched
    assert "/review/pair" in matched
    assert "group=p00" in matched
    assert "http_404" in failed
    assert "fix the URL" in failed
    assert failed.count("<figure") == 2


def test_unknown_items_and_catalogs_are_pages_that_say_so(client: TestClient) -> None:
    assert "products has no item &#39;nobody&#39;" in page(
        client, "products/item", 404, id="nobody"
    )
    assert "the store has no table" in page(client, "nothing", 404)
    assert "is in no groups" in page(client, "products/groups", 404, table="suppliers/x")


def test_failures_have_reason_retry_and_what_to_do(client: TestClient) -> None:
    html = page(client, "products/failures")

    for expected in ("empty_id", "http_404", "truncated", "fill the field", "replace the image"):
        assert expected in html
    assert "imgsim retry products --all" in html
    assert items_of(page(client, "products/failures", status="http_404")) == ["x1", "x2"]
    timed_out = page(client, "products/failures", status="timeout")
    for expected in ("2031-05-04 03:02 UTC", "2 attempts", "raise timeout_s for slow hosts"):
        assert expected in timed_out
        assert expected in page(client, "products/item", id="x1")


def test_shared_images_have_count_and_a_line_for_the_ignore_list(client: TestClient) -> None:
    html = page(client, "products/placeholders")
    sha256 = sha256_of(LOGO)

    assert "3 items" in html
    assert f'data-copy="{sha256},3 items of products"' in html
    assert items_of(page(client, "products", sha256=sha256)) == ["p10", "p11", "p12"]


def test_groups_name_the_copy_to_keep_and_the_reason(client: TestClient) -> None:
    html = page(client, "products/groups", group="p00")

    assert items_of(html)[0] == "p00"
    assert set(items_of(html)) == {"p00", "p01", "p02"}
    assert html.count(">keep<") == 1
    assert html.count(">redundant<") == 2
    assert "kept: " in html
    across = page(client, "products/groups", table="duplicate_groups/both")
    assert "/explore/suppliers/item?id=s0" in across


def test_members_of_a_group_show_all_their_images(client: TestClient) -> None:
    html = page(client, "products/groups", group="p10")

    assert set(items_of(html)) == {"p10", "p11", "p12"}
    for image in (tiny(10), tiny(11), LOGO):
        assert f"/api/images/{sha256_of(image)}?" in html


def _pair(html: str, other: str) -> dict[str, str]:
    forms = re.findall(r"<form class=\"judge\".*?</form>", html, re.DOTALL)
    fields = [dict(re.findall(r'name="(\w+)" value="([^"]*)"', form)) for form in forms]
    pair = next(each for each in fields if each["right_id"] == other)
    return {name: value for name, value in pair.items() if name != "verdict"}


def test_pairs_of_a_group_are_judged_with_and_without_scripts(
    client: TestClient, browsed: Store
) -> None:
    where = "/explore/products/groups?table=products/duplicate_groups"
    pair = _pair(page(client, "products/groups", group="p00"), "p01")

    form = {**pair, "verdict": "different", "reviewer": "Ada"}
    plain = client.post(where, data=form, headers={"accept": "text/html"}, follow_redirects=False)
    assert plain.status_code == 303
    shown = client.get(plain.headers["location"]).text
    assert 'value="different" aria-pressed="true"' in shown

    cleared = client.post(where, data={**form, "verdict": "cleared"})
    assert cleared.json()["added"] == 1
    assert 'aria-pressed="true"' not in page(client, "products/groups", group="p00")

    table = group_reviews_table(browsed, "products")
    commit = table.latest()
    assert commit is not None
    rows = table.read(commit).sort("decided_at")
    assert rows["verdict"].to_list() == ["different", "cleared"]
    assert rows["reviewer"].unique().to_list() == ["Ada"]


def test_a_decision_without_a_name_or_of_a_gone_image_is_refused(client: TestClient) -> None:
    where = "/explore/products/groups?table=products/duplicate_groups"
    pair = _pair(page(client, "products/groups", group="p00"), "p02")

    nameless = client.post(where, data={**pair, "verdict": "match"})
    gone = client.post(
        where, data={**pair, "left_sha256": "0" * 64, "verdict": "match", "reviewer": "Ada"}
    )

    assert nameless.status_code == gone.status_code == 422
    assert "reviewer is empty" in nameless.json()["detail"]
    assert "no longer has the image" in gone.json()["detail"]


def test_search_finds_ids_before_words_of_columns(client: TestClient) -> None:
    html = page(client, "products/search", q="P1")
    exact = page(client, "products/search", q="x1")

    assert items_of(html) == [f"p1{digit}" for digit in range(10)]
    assert items_of(exact) == ["x1"]
    assert "cannot compare texts with images" in exact
    assert "No item contains them" in page(client, "products/search", q="nothing of the kind")


def test_search_by_image_finds_the_nearest_items(client: TestClient) -> None:
    files = {"file": ("copy.png", tiny(0), "image/png")}
    answer = client.post("/explore/products/search", files=files)

    assert items_of(answer.text)[:3] == ["p00", "p02", "p01"]
    assert "1.0000" in answer.text


def test_search_by_a_file_that_is_no_image_says_so(client: TestClient) -> None:
    files = {"file": ("list.csv", b"id,url", "text/csv")}
    html = client.post("/explore/products/search", files=files).text

    assert 'role="alert"' in html


def test_the_name_that_a_proxy_passes_is_that_of_the_reviewer(browsed: Store) -> None:
    where = "/explore/products/groups?table=duplicate_groups/both"
    settings = ServeSettings(reviewer_header="X-Forwarded-User")
    headers = {"X-Forwarded-User": "Grace"}
    app = create_app(browsed, settings)
    with TestClient(app, base_url="http://localhost", headers=headers) as client:
        html = client.get(where).text
        pair = _pair(html, "suppliers/s0")
        answer = client.post(where, data={**pair, "verdict": "match", "reviewer": "Mallory"})

    assert "Decisions are recorded for Grace." in html
    assert answer.json()["added"] == 1
    table = group_reviews_table(browsed, "both")
    commit = table.latest()
    assert commit is not None
    columns = ["left_id", "right_id", "reviewer"]
    assert table.read(commit).select(columns).rows() == [("products/p00", "suppliers/s0", "Grace")]


@pytest.mark.slow
def test_words_are_compared_with_images_where_the_encoder_has_a_text_tower(
    tmp_path: Path,
) -> None:
    folder = tiny_models.save_siglip(tmp_path / "siglip")
    encoder = EncoderSettings(name=f"local-dir:{folder}", precision="fp32")
    store = Store.open(tmp_path / "store")
    with_texts = {f"t{number}": tiny(number) for number in range(3)}
    catalog(store, tmp_path, "texts", with_texts, encoder)
    with TestClient(create_app(store), base_url="http://localhost") as client:
        html = page(client, "texts/search", q="red shoe")

    assert "Images that show “red shoe”" in html
    assert set(items_of(html)) == set(with_texts)
    assert "Words are also compared with the images" in html


def test_versions_link_to_their_assets_in_dagster(client: TestClient) -> None:
    html = page(client, "products")

    assert 'href="http://127.0.0.1:3000/assets/products/items"' in html


def test_links_have_the_root_path_of_a_proxy(browsed: Store) -> None:
    app = create_app(browsed, ServeSettings(root_path="/imgsim"))
    with TestClient(app, base_url="http://localhost", root_path="/imgsim") as client:
        html = page(client, "products")

    hrefs = re.findall(r'(?:href|src|action)="(/[^"]*)"', html)
    assert hrefs
    assert [each for each in hrefs if not each.startswith("/imgsim/")] == []


@pytest.mark.parametrize("path", ["groups", "failures", "placeholders"])
def test_a_page_beyond_every_row_is_empty_or_refused(client: TestClient, path: str) -> None:
    url = f"/explore/products/{path}"

    assert client.get(url, params={"start": 2**62}).status_code == 200
    assert client.get(url, params={"start": 2**64}).status_code == 422
