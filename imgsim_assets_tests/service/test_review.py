from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.reviews.table import read_reviews, reviews_table
from imgsim_assets.service.app import create_app
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets_tests.support.review_shop import (
    HOSTILE_ID,
    HOSTILE_TITLE,
    NAME,
    ReviewShop,
)

URL = f"/api/review/{NAME}"


@pytest.fixture(scope="module")
def materialized(tmp_path_factory: pytest.TempPathFactory) -> ReviewShop:
    opened = ReviewShop.open(tmp_path_factory.mktemp("shop"), matched=8)
    opened.materialize()
    return opened


@pytest.fixture
def shop(materialized: ReviewShop, tmp_path: Path) -> ReviewShop:
    return materialized.copied_to(tmp_path / "shop")


@pytest.fixture
def client(shop: ReviewShop) -> Iterator[TestClient]:
    settings = ServeSettings(reviewer_header="X-Forwarded-User")
    with TestClient(create_app(shop.store, settings), base_url="http://localhost") as opened:
        yield opened


def _pairs(client: TestClient, tab: str, **query: Any) -> dict[str, Any]:
    response = client.get(f"{URL}/pairs", params={"tab": tab, **query})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def _decide(client: TestClient, pair: dict[str, Any], verdict: str, **body: Any) -> Any:
    decision = {name: pair[name] for name in ("left_id", "right_id", "left_sha256", "right_sha256")}
    content = {"reviewer": "ann", "decisions": [{**decision, "verdict": verdict}], **body}
    return client.post(f"{URL}/decisions", json=content)


def _refresh(client: TestClient) -> None:
    client.app.state.views.refresh()  # type: ignore[attr-defined]


def test_summary_counts_tabs_and_decisions(client: TestClient) -> None:
    summary = client.get(URL).json()

    assert (summary["left"], summary["right"], summary["matches"]) == ("products", "suppliers", 8)
    counts = {each["tab"]: each["count"] for each in summary["tabs"]}
    assert counts["new"] == counts["all"] == counts["random"] == 8
    assert counts["unmatched"] == 3
    assert summary["verdicts"] == {}


def test_pairs_have_columns_and_images_of_both_items(client: TestClient) -> None:
    pairs = _pairs(client, "all")["pairs"]

    pair = next(each for each in pairs if each["left_id"] == "P001")
    assert pair["left"]["title"] == "Blue shirt 1"
    assert pair["right"]["title"] == "Navy shirt 1"
    assert [each["image"] for each in pair["left_images"]] == [0, 1]
    assert pair["rank"] == 1
    assert pair["verdict"] is None


def test_pages_of_pairs_follow_each_other(client: TestClient) -> None:
    whole = _pairs(client, "random")["pairs"]

    position: int | None = 0
    read = []
    while position is not None:
        page = _pairs(client, "random", position=position, limit=3)
        read += page["pairs"]
        position = page["next"]

    assert read == whole
    assert len(read) == 8


def test_unmatched_items_have_their_nearest_right_item(client: TestClient) -> None:
    answer = _pairs(client, "unmatched")

    assert {pair["left_id"] for pair in answer["pairs"]} == {"U000", "U001", "U002"}
    scores = [pair["similarity"] for pair in answer["pairs"]]
    assert scores == sorted(scores, reverse=True)
    assert max(scores) < 0.9
    assert all(pair["rank"] is None and pair["right_id"] for pair in answer["pairs"])


def test_near_tab_starts_with_the_pair_nearest_the_threshold(client: TestClient) -> None:
    pairs = _pairs(client, "near")["pairs"]

    distances = [abs(pair["similarity"] - 0.9) for pair in pairs]
    assert distances == sorted(distances)
    assert len(pairs) == 8 + 3


def test_candidates_go_below_the_threshold(client: TestClient) -> None:
    answer = client.get(f"{URL}/candidates", params={"left_id": "P002", "limit": 5}).json()

    scores = [pair["similarity"] for pair in answer["pairs"]]
    assert scores == sorted(scores, reverse=True)
    assert [pair["rank"] for pair in answer["pairs"]] == [1, None, None, None, None]
    assert answer["pairs"][0]["right_id"] == "S002"


def test_decision_is_shown_at_once_and_honored_by_the_next_run(
    client: TestClient, shop: ReviewShop
) -> None:
    pair = next(each for each in _pairs(client, "all")["pairs"] if each["left_id"] == "P003")

    response = _decide(client, pair, "different")

    assert response.json() == {"added": 1, "reviewer": "ann", "verdicts": {"different": 1}}
    rejected = _pairs(client, "rejected")
    assert [each["left_id"] for each in rejected["pairs"]] == ["P003"]
    assert rejected["pairs"][0]["similarity"] == pytest.approx(pair["similarity"])
    assert _pairs(client, "all")["judged"] == 1
    assert shop.match().matches == 7
    _refresh(client)
    assert "P003" not in {each["left_id"] for each in _pairs(client, "all")["pairs"]}
    assert [each["left_id"] for each in _pairs(client, "rejected")["pairs"]] == ["P003"]


def test_pair_below_the_threshold_can_be_accepted(client: TestClient, shop: ReviewShop) -> None:
    pair = _pairs(client, "unmatched")["pairs"][0]

    _decide(client, pair, "match")
    shop.match()
    _refresh(client)

    accepted = _pairs(client, "accepted")["pairs"]
    assert [(each["left_id"], each["rank"]) for each in accepted] == [(pair["left_id"], 1)]
    assert [each["left_id"] for each in _pairs(client, "new")["pairs"]] == [pair["left_id"]]


def test_decision_is_taken_back_by_a_row(client: TestClient, shop: ReviewShop) -> None:
    pair = _pairs(client, "all")["pairs"][0]
    _decide(client, pair, "different")

    response = _decide(client, pair, "cleared")

    assert response.json()["verdicts"] == {}
    table = reviews_table(shop.store, NAME)
    assert read_reviews(table, table.latest())["verdict"].to_list() == ["different", "cleared"]


def test_first_open_pair_follows_the_judged_ones(client: TestClient) -> None:
    for pair in _pairs(client, "random")["pairs"][:3]:
        _decide(client, pair, "match")

    answer = _pairs(client, "random")
    assert (answer["first_open"], answer["judged"]) == (3, 3)


def test_random_tab_measures_the_precision_from_ten_pairs_on(tmp_path: Path) -> None:
    shop = ReviewShop.open(tmp_path, matched=12)
    shop.materialize()
    with TestClient(create_app(shop.store), base_url="http://localhost") as client:
        pairs = _pairs(client, "random")["pairs"]
        for number, pair in enumerate(pairs[:10]):
            assert _pairs(client, "random")["precision"] is None
            _decide(client, pair, "match" if number else "different")

        measured = _pairs(client, "random")["precision"]
        shop.match()
        _refresh(client)
        after = _pairs(client, "random")

    assert (measured["value"], measured["sampled"], measured["population"]) == (0.9, 10, 12)
    assert after["precision"] == measured
    assert [each["left_id"] for each in after["pairs"]] == [each["left_id"] for each in pairs]


def test_table_of_a_catalog_with_itself_shows_each_pair_once(
    shop: ReviewShop,
) -> None:
    settings = MatchMatrixSettings(
        name="twins", left="products", right="products", mode="top_k", k=2, threshold=-1.0
    )
    MatchPipeline(shop.store, settings, root=shop.root).run()
    with TestClient(create_app(shop.store), base_url="http://localhost") as client:
        url = "/api/review/twins"
        pairs = client.get(f"{url}/pairs", params={"tab": "all"}).json()["pairs"]
        found = client.get(f"{url}/candidates", params={"left_id": "P001"}).json()["pairs"]
        names = ("left_id", "right_id", "left_sha256", "right_sha256")
        decision = {name: pairs[0][name] for name in names} | {"verdict": "different"}
        client.post(f"{url}/decisions", json={"reviewer": "ann", "decisions": [decision]})
        summary = client.get(url).json()
        rejected = client.get(f"{url}/pairs", params={"tab": "rejected"}).json()["pairs"]
    report = MatchPipeline(shop.store, settings, root=shop.root).run()

    counts = {tab["tab"]: tab["count"] for tab in summary["tabs"]}
    assert len(rejected) == counts["rejected"] == 1
    assert summary["verdicts"] == report.decisions == {"different": 1}
    unordered = [frozenset((pair["left_id"], pair["right_id"])) for pair in pairs]
    assert len(set(unordered)) == len(unordered) > 0
    assert all(len(pair) == 2 for pair in unordered)
    assert "P001" not in {pair["right_id"] for pair in found}


def test_first_page_links_to_the_review_and_to_the_catalogs(client: TestClient) -> None:
    page = client.get("/").text

    assert f'href="/review/{NAME}"' in page
    assert 'href="/explore/products"' in page


def test_pages_keep_the_root_path_of_a_proxy(shop: ReviewShop) -> None:
    settings = ServeSettings(root_path="/shop")
    with TestClient(create_app(shop.store, settings), base_url="http://localhost") as client:
        pages = [client.get(path).text for path in (f"/review/{NAME}", "/")]

    for page in pages:
        urls = re.findall(r'(?:src|href)="([^"#]+)"', page)
        assert all(url.startswith("/shop/") for url in urls)


def test_reviewer_comes_from_the_header_of_the_proxy(client: TestClient, shop: ReviewShop) -> None:
    pair = _pairs(client, "all")["pairs"][0]
    decision = {name: pair[name] for name in ("left_id", "right_id", "left_sha256", "right_sha256")}
    body = {"reviewer": "mallory", "decisions": [{**decision, "verdict": "match"}]}

    response = client.post(f"{URL}/decisions", json=body, headers={"X-Forwarded-User": "bob"})

    assert response.json()["reviewer"] == "bob"
    assert client.get(URL, headers={"X-Forwarded-User": "bob"}).json()["reviewer"] == "bob"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"right_id": "nobody"}, "nobody"),
        ({"left_sha256": "0" * 64}, "no longer has the image"),
        ({"verdict": "maybe"}, "maybe"),
    ],
)
def test_decision_about_something_else_is_refused(
    client: TestClient, change: dict[str, str], word: str
) -> None:
    pair = _pairs(client, "all")["pairs"][0]
    decision = {name: pair[name] for name in ("left_id", "right_id", "left_sha256", "right_sha256")}
    body = {"reviewer": "ann", "decisions": [{**decision, "verdict": "match", **change}]}

    response = client.post(f"{URL}/decisions", json=body)

    assert response.status_code == 422
    assert word in response.json()["detail"]


def test_position_beyond_every_table_is_refused(client: TestClient) -> None:
    response = client.get(f"{URL}/pairs", params={"position": 2**64})

    assert response.status_code == 422


def test_name_of_the_proxy_is_read_as_utf8(client: TestClient) -> None:
    for sent in ("J\u00fcrgen", "\u5c0f\u660e"):
        response = client.get(URL, headers={b"X-Forwarded-User": sent.encode()})
        assert response.json()["reviewer"] == sent
    latin = client.get(URL, headers={b"X-Forwarded-User": "J\u00fcrgen".encode("latin-1")})
    assert latin.json()["reviewer"] == "J\u00fcrgen"


def test_decision_without_a_reviewer_is_refused(client: TestClient) -> None:
    response = _decide(client, _pairs(client, "all")["pairs"][0], "match", reviewer=None)

    assert response.status_code == 422
    assert "reviewer is missing" in response.json()["detail"]


def test_scores_count_every_left_item(client: TestClient) -> None:
    scores = client.get(f"{URL}/scores").json()

    assert sum(scores["counts"]) == scores["items"] == scores["sampled"] == 11
    first_bin = round((0.9 - scores["first"]) / scores["width"])
    assert sum(scores["counts"][first_bin:]) == 8


def test_matched_features_are_of_images_of_the_table(client: TestClient) -> None:
    pair = _pairs(client, "all")["pairs"][0]
    query = {name: pair[name] for name in ("left_sha256", "right_sha256")}

    found = client.get(f"{URL}/features", params=query)
    swapped = client.get(
        f"{URL}/features",
        params={"left_sha256": query["right_sha256"], "right_sha256": query["left_sha256"]},
    )

    assert len(found.json()["left"]) == len(found.json()["right"])
    assert swapped.status_code == 404


def test_version_of_a_request_stays_after_the_next_materialization(
    client: TestClient, shop: ReviewShop
) -> None:
    before = _pairs(client, "all")
    _decide(client, before["pairs"][0], "different")
    shop.match()
    _refresh(client)

    pinned = _pairs(client, "all", version=before["version"])

    assert len(pinned["pairs"]) == len(before["pairs"]) == len(_pairs(client, "all")["pairs"]) + 1
    assert client.get(f"{URL}?version=99").status_code == 410


def test_hostile_text_is_cut_and_stays_text(client: TestClient) -> None:
    pair = next(each for each in _pairs(client, "all")["pairs"] if each["left_id"] == HOSTILE_ID)

    assert pair["left"]["title"] == HOSTILE_TITLE
    assert len(pair["left"]["extra"]) == 300
    assert "\u202e" not in pair["right"]["title"]


def test_unknown_match_table_is_not_found(client: TestClient) -> None:
    assert client.get("/api/review/nothing").status_code == 404
    assert client.get("/review/nothing").status_code == 404
    assert client.get("/api/review/..%2f..%2fx/pairs").status_code in (404, 422)
