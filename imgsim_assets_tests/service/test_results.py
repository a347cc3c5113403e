from __future__ import annotations

import shutil

from fastapi.testclient import TestClient

from imgsim_assets.service.app import create_app
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, sha256_of, tiny


def test_results_list_catalogs_with_their_versions(client: TestClient) -> None:
    results = client.get("/api/results").json()

    assert [catalog["name"] for catalog in results["catalogs"]] == ["products"]
    assert results["catalogs"][0]["index"]["rows"] == 5
    assert results["match_tables"] == results["group_tables"] == []


def test_store_without_tables_is_served(store: Store) -> None:
    with TestClient(create_app(store), base_url="http://localhost") as client:
        assert client.get("/healthz").json()["status"] == "ok"
        assert client.get("/api/results").json()["catalogs"] == []


def test_new_version_is_seen_after_a_refresh_and_a_deleted_table_leaves(
    client: TestClient, served: Store
) -> None:
    views = client.app.state.views  # type: ignore[attr-defined]
    before = views.current
    indexed(served, "products", {"item0": tiny(0), "item9": tiny(9)})

    assert views.refresh()
    assert client.get("/api/results").json()["catalogs"][0]["index"]["rows"] == 2
    assert before.frame("products/index").height == 5
    assert not views.refresh()


def test_store_that_was_deleted_and_computed_again_is_read_again(
    client: TestClient, served: Store
) -> None:
    views = client.app.state.views  # type: ignore[attr-defined]
    before = views.current.commits["products/index"]
    shutil.rmtree(served.url)
    indexed(Store.open(served.url), "products", {"item0": tiny(0), "item9": tiny(9)})
    assert served.table("products/index").versions() == [before.version]

    assert views.refresh()
    assert client.get("/api/results").json()["catalogs"][0]["index"]["rows"] == 2
    found = client.post("/api/query/products", json={"id": "item9"}).json()["neighbors"]
    assert [each["id"] for each in found] == ["item0"]
    assert not views.refresh()
    image = client.get(f"/api/images/{sha256_of(tiny(9))}")
    assert image.content == tiny(9)


def test_failures_of_a_catalog_that_was_computed_again_are_its_new_ones(
    client: TestClient, served: Store
) -> None:
    assert client.get("/api/failures/products").json()["total"] == 0
    shutil.rmtree(served.url)
    indexed(Store.open(served.url), "products", {"item0": tiny(0), "item1": None})

    client.app.state.views.refresh()  # type: ignore[attr-defined]
    failed = client.get("/api/failures/products").json()["rows"]
    assert [row["id"] for row in failed] == ["item1"]
