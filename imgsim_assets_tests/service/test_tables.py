"""Items, matches, groups, failures and changes of a store with results of every kind."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets import read_table
from imgsim_assets.service.app import create_app
from imgsim_assets.service.paging import Cursor
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

ITEMS = [f"ünï/{number:02d}?#&" for number in range(25)]


def _put(table: Table, rows: pl.DataFrame, **properties: Any) -> None:
    file = table.write_rows(rows)
    table.commit(lambda _: PendingCommit([file], properties=properties))


def _matches(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "left_id": ITEMS[:count],
            "right_id": ["s"] * count,
            "similarity": [0.8 + number / 1000 for number in range(count)],
            "rank": pl.Series([1] * count, dtype=pl.Int32),
            "left_image": pl.Series([0] * count, dtype=pl.Int32),
            "right_image": pl.Series([0] * count, dtype=pl.Int32),
            "left_sha256": ["a" * 64] * count,
            "right_sha256": ["b" * 64] * count,
            "verdict": ["match" if number % 5 == 0 else None for number in range(count)],
        }
    )


def _groups() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "group_id": ["a", "a", "b", "b", "b"],
            "id": ["3", "1", "7", "8", "9"],
            "image": pl.Series([0] * 5, dtype=pl.Int32),
            "sha256": ["c" * 64] * 5,
            "is_canonical": [False, True, True, False, False],
            "keep": [False, True, True, False, False],
            "similarity": [0.9, None, None, 0.9, 0.9],
            "size": pl.Series([2, 2, 3, 3, 3], dtype=pl.Int32),
            "min_similarity": [0.9] * 5,
            "mean_similarity": [0.9] * 5,
            "bridges": pl.Series([0] * 5, dtype=pl.Int32),
        }
    )


@pytest.fixture
def results(store: Store) -> Iterator[TestClient]:
    items = pl.DataFrame(
        {
            "id": ITEMS,
            "url": ["https://images.example/x.jpg"] * 25,
            "title": [f"Thing {number}" for number in range(25)],
            "price": [float("nan"), float("inf"), *map(float, range(23))],
        }
    )
    _put(store.table("products/items", key="id"), items)
    images = pl.DataFrame(
        {
            "id": ITEMS,
            "image": pl.Series([0] * 25, dtype=pl.Int32),
            "url": ["https://images.example/x.jpg"] * 25,
            "status": ["ok"] * 20 + ["http_404"] * 5,
            "sha256": ["d" * 64] * 20 + [None] * 5,
        }
    )
    _put(store.table("products/images", key=("id", "image")), images)
    _put(store.table("matches/pair"), _matches(20), left="products", right="suppliers")
    groups = store.table("products/duplicate_groups")
    _put(groups, _groups(), catalogs=["products"], threshold=0.9)
    with TestClient(create_app(store), base_url="http://localhost") as client:
        yield client


def _pages(client: TestClient, path: str, **query: Any) -> list[dict[str, Any]]:
    pages = [client.get(path, params=query).json()]
    while pages[-1]["next_cursor"] is not None:
        cursor = pages[-1]["next_cursor"]
        pages.append(client.get(path, params={**query, "cursor": cursor}).json())
    return pages


@pytest.mark.parametrize("limit", [1, 7, 20, 1000])
def test_pages_have_every_row_once(results: TestClient, limit: int) -> None:
    pages = _pages(results, "/api/matches/pair", limit=limit)

    rows = [row for page in pages for row in page["rows"]]
    assert [row["left_id"] for row in rows] == ITEMS[:20]
    assert {page["total"] for page in pages} == {20}
    assert all(len(page["rows"]) <= limit for page in pages)


def test_cursor_stays_at_its_version_while_the_table_changes(
    results: TestClient, store: Store
) -> None:
    first = results.get("/api/matches/pair", params={"limit": 5}).json()
    _put(store.table("matches/pair"), _matches(3), left="products", right="suppliers")
    assert results.app.state.views.refresh()  # type: ignore[attr-defined]

    query = {"limit": 5, "cursor": first["next_cursor"]}
    second = results.get("/api/matches/pair", params=query).json()

    assert [row["left_id"] for row in second["rows"]] == ITEMS[5:10]
    assert second["versions"] == {"matches/pair": 1}
    assert results.get("/api/matches/pair").json()["total"] == 3


@pytest.mark.parametrize("offset", ["Infinity", "1e400", 2**62 + 1, 2**64, 10**30])
def test_cursor_beyond_every_table_is_no_cursor(results: TestClient, offset: object) -> None:
    first = results.get("/api/matches/pair", params={"limit": 1}).json()["next_cursor"]
    versions, _, query = json.loads(base64.urlsafe_b64decode(first + "=="))
    text = f"[{json.dumps(versions)},{offset},{json.dumps(query)}]"
    cursor = base64.urlsafe_b64encode(text.encode()).decode()

    response = results.get("/api/matches/pair", params={"limit": 1, "cursor": cursor})

    assert response.status_code == 422
    assert "not a cursor" in response.json()["detail"]


def test_cursor_of_a_deleted_version_is_gone(results: TestClient, store: Store) -> None:
    first = results.get("/api/matches/pair", params={"limit": 5}).json()
    _put(store.table("matches/pair"), _matches(3), left="products", right="suppliers")
    results.app.state.views.refresh()  # type: ignore[attr-defined]
    store.files.delete("matches/pair/_commits/000000000001.json")

    query = {"limit": 5, "cursor": first["next_cursor"]}
    response = results.get("/api/matches/pair", params=query)

    assert (response.status_code, "no version 1" in response.json()["detail"]) == (410, True)


@pytest.mark.parametrize("cursor", ["", "x", "é", "e30", "W10", "A" * 1999, "W3sieCI6MX0sLTEsIiJd"])
def test_anything_else_is_no_cursor(results: TestClient, cursor: str) -> None:
    response = results.get("/api/matches/pair", params={"cursor": cursor})

    assert response.status_code == 422
    assert "cursor" in str(response.json()["detail"])


def test_cursor_belongs_to_its_filters(results: TestClient) -> None:
    cursor = results.get("/api/matches/pair", params={"limit": 5}).json()["next_cursor"]

    other = results.get("/api/matches/pair", params={"cursor": cursor, "min_similarity": 0.9})

    assert (other.status_code, "another query" in other.text) == (422, True)


@settings(max_examples=50, deadline=None)
@given(
    versions=st.dictionaries(st.text(max_size=20), st.integers(0, 10**6), max_size=4),
    offset=st.integers(0, 10**9),
    query=st.text(max_size=20),
)
def test_cursor_survives_its_text(versions: dict[str, int], offset: int, query: str) -> None:
    cursor = Cursor(versions, offset, query)

    assert Cursor.from_text(cursor.to_text()) == cursor


def test_matches_are_filtered_and_ordered(results: TestClient) -> None:
    def ids(**query: Any) -> list[str]:
        response = results.get("/api/matches/pair", params=query)
        return [row["left_id"] for row in response.json()["rows"]]

    assert ids(left_id=[ITEMS[3], ITEMS[1]]) == [ITEMS[1], ITEMS[3]]
    assert ids(min_similarity=0.805, max_similarity=0.806) == ITEMS[5:7]
    assert ids(verdict="match") == ITEMS[:20:5]
    assert len(ids(verdict=["match", "none"])) == 20
    assert ids(order="-similarity", limit=2) == [ITEMS[19], ITEMS[18]]
    assert ids(right_id="nobody") == []
    evidence = results.get("/api/matches/pair", params={"evidence": "aligned"})
    assert (evidence.status_code, "no column" in evidence.text) == (422, True)


def test_items_have_their_carried_columns_and_no_number_that_json_lacks(
    results: TestClient,
) -> None:
    rows = results.get("/api/items/products", params={"text": "thing 1"}).json()["rows"]
    by_id = results.get("/api/items/products", params={"id": ITEMS[0]}).json()["rows"]
    images = results.get("/api/items/products/images", params={"id": ITEMS[0]}).json()["rows"]

    assert [row["title"] for row in rows] == ["Thing 1", *(f"Thing {n}" for n in range(10, 20))]
    assert by_id[0] == {
        "id": ITEMS[0],
        "url": "https://images.example/x.jpg",
        "title": "Thing 0",
        "price": None,
    }
    assert images[0]["sha256"] == "d" * 64


def test_groups_are_not_divided_between_pages(results: TestClient) -> None:
    pages = _pages(results, "/api/groups/products/duplicate_groups", limit=1)

    groups = [page["rows"][0] for page in pages]
    assert [group["group_id"] for group in groups] == ["a", "b"]
    assert [member["id"] for member in groups[0]["members"]] == ["1", "3"]
    assert groups[0]["members"][0]["is_canonical"]
    with_item = results.get("/api/groups/products/duplicate_groups", params={"id": "8"}).json()
    assert [group["size"] for group in with_item["rows"]] == [3]


def test_failures_have_their_reason(results: TestClient) -> None:
    page = results.get("/api/failures/products", params={"status": "http_404"}).json()

    assert page["total"] == 5
    assert page["rows"][0]["stage"] == "images"
    assert page["rows"][0]["title"] == "Thing 20"
    assert page["versions"] == {"products/images": 1, "products/items": 1}
    assert results.get("/api/failures/products?stage=embeddings").json()["total"] == 0


def test_changes_since_a_version_are_seen_once(results: TestClient, store: Store) -> None:
    changed = _matches(20).with_columns(pl.col("similarity").replace(0.8, 0.9))
    _put(store.table("matches/pair"), changed.slice(0, 19), left="products", right="suppliers")
    results.app.state.views.refresh()  # type: ignore[attr-defined]

    pages = _pages(results, "/api/changes/matches/pair", since=1, limit=1)

    rows = [(row["change"], row["left_id"]) for page in pages for row in page["rows"]]
    assert rows == [("changed", ITEMS[0]), ("removed", ITEMS[19])]
    until = pages[0]["versions"]["until"]
    assert results.get("/api/changes/matches/pair", params={"since": until}).json()["total"] == 0
    assert results.get("/api/changes/matches/pair").json()["total"] == 19
    assert results.get("/api/changes/matches/pair?since=9").status_code == 422


def test_changes_since_a_deleted_version_are_gone(results: TestClient, store: Store) -> None:
    _put(store.table("matches/pair"), _matches(3), left="products", right="suppliers")
    results.app.state.views.refresh()  # type: ignore[attr-defined]
    store.files.delete("matches/pair/_commits/000000000001.json")

    response = results.get("/api/changes/matches/pair?since=1")

    assert (response.status_code, "read the whole table" in response.text) == (410, True)


@pytest.mark.parametrize(
    "path",
    [
        "/api/matches/nothing",
        "/api/matches/..%2F..%2Fetc",
        "/api/items/nothing",
        "/api/groups/products/items",
        "/api/groups/../../etc/passwd",
        "/api/groups/%2e%2e/%2e%2e/etc",
        "/api/changes/products/nothing",
        "/api/changes/_blobs/packs",
        "/api/failures/nothing",
    ],
)
def test_what_the_store_does_not_have_is_not_found(results: TestClient, path: str) -> None:
    response = results.get(path)

    assert response.status_code == 404
    assert response.json()["detail"]


def test_table_that_is_deleted_while_it_is_served_is_not_found_afterwards(
    results: TestClient, store: Store
) -> None:
    local = store.files.local_path("matches/pair/_commits/000000000001.json")
    assert local is not None
    for file in (local, *local.parents[1].glob("data/*"), local.parents[1] / "_latest.json"):
        file.unlink()

    unread = results.get("/api/matches/pair")
    results.app.state.views.refresh()  # type: ignore[attr-defined]

    assert (unread.status_code, "missing" in unread.text) == (503, True)
    assert results.get("/api/matches/pair").status_code == 404
    assert results.get("/api/items/products").status_code == 200


def test_every_operation_of_the_document_names_its_responses(results: TestClient) -> None:
    document = results.get("/openapi.json").json()

    operations = {
        f"{method} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert "get /api/matches/{name}" in operations
    for name, operation in operations.items():
        content = operation["responses"]["200"].get("content", {})
        assert content, name
        for media in content.values():
            if "schema" in media and name.startswith("get /api/") and "images/{" not in name:
                assert media["schema"], name
        assert operation["summary"], name
        assert operation.get("tags"), name


def test_rows_equal_those_of_read_table(results: TestClient, store: Store) -> None:
    rows = [row for page in _pages(results, "/api/matches/pair") for row in page["rows"]]

    assert rows == read_table("matches/pair", store=store).collect().to_dicts()
