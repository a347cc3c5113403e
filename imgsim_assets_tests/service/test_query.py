from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from imgsim_assets import ImageSimilarityModel
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.index.stage import open_index
from imgsim_assets.service.app import create_app
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.malformed_images import png_of
from imgsim_assets_tests.support.web import Web

HOG = EncoderSettings(name="hog_color")
ITEMS = {f"item{seed}": jpeg(seed) for seed in range(6)}


@pytest.fixture
def photos(store: Store, web: Web) -> Iterator[TestClient]:
    """A service over `photos`, whose encoder is hog_color; an item has two images."""
    indexed(store, "photos", {**ITEMS, "ünï/côdé é": [jpeg(20), jpeg(21)]}, HOG)
    settings = ServeSettings(query_hosts=(web.address,), max_upload_bytes=500_000)
    with TestClient(create_app(store, settings), base_url="http://localhost") as client:
        yield client


def _upload(client: TestClient, *images: bytes, **limits: Any) -> Any:
    files = [("image", ("photo.jpg", data)) for data in images]
    return client.post("/api/query/photos/image", files=files, params=limits)


def _ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [neighbor["id"] for neighbor in response.json()["neighbors"]]


def test_upload_finds_what_the_model_finds(photos: TestClient, store: Store) -> None:
    photo = encoded(make_image(3), "JPEG", quality=40)
    model = ImageSimilarityModel.create("photos", store=store, progress=False)
    expected = model.query([photo], k=4, progress=False)

    found = _upload(photos, photo, k=4).json()["neighbors"]

    assert [row["id"] for row in found] == expected["reference_label"].to_list()
    assert [row["distance"] for row in found] == expected["distance"].to_list()
    assert [row["rank"] for row in found] == [1, 2, 3, 4]


def test_image_of_the_catalog_finds_itself_at_distance_0(photos: TestClient) -> None:
    nearest = _upload(photos, jpeg(21), k=1).json()["neighbors"][0]

    assert (nearest["id"], nearest["image"], nearest["distance"]) == ("ünï/côdé é", 1, 0.0)


def test_several_images_of_one_item_find_the_nearest_of_any(photos: TestClient) -> None:
    found = _upload(photos, jpeg(4), jpeg(2), k=2).json()["neighbors"]

    assert [(row["id"], row["query_image"]) for row in found] == [("item2", 1), ("item4", 0)]


def test_unknown_parameter_is_named_with_the_place_of_the_others(photos: TestClient) -> None:
    refused = photos.get("/api/items/photos", params={"shade": "red"})

    assert refused.status_code == 422
    message = "shade: there is no such parameter here; /openapi.json lists them"
    assert refused.json() == {"detail": message}


def test_item_is_found_by_its_id_and_is_not_its_own_neighbor(photos: TestClient) -> None:
    found = photos.post("/api/query/photos", json={"id": "ünï/côdé é", "k": 100})

    assert sorted(_ids(found)) == sorted(ITEMS)


def test_vector_and_threshold_and_radius(photos: TestClient, store: Store) -> None:
    _, index = open_index(store, "photos")
    vector = (index.vectors()[0] * 3).tolist()
    by_vector = photos.post("/api/query/photos", json={"vector": vector, "k": 3})
    second = by_vector.json()["neighbors"][1]

    for limit in ({"threshold": second["similarity"]}, {"radius": second["distance"]}):
        found = photos.post("/api/query/photos", json={"vector": vector, **limit})
        assert _ids(found) == _ids(by_vector)[:2]
    assert np.isclose(by_vector.json()["neighbors"][0]["similarity"], 1)


def test_url_is_fetched_from_an_allowed_host_only(photos: TestClient, web: Web) -> None:
    web.pages["/photo.jpg"] = jpeg(5)
    web.pages["/page.jpg"] = b"<html>"

    allowed = photos.post("/api/query/photos", json={"url": web.url("/photo.jpg"), "k": 1})
    page = photos.post("/api/query/photos", json={"url": web.url("/page.jpg")})

    assert _ids(allowed) == ["item5"]
    assert (page.status_code, "not_image" in page.json()["detail"]) == (422, True)
    for url in (
        "http://169.254.169.254/latest/meta-data/",
        f"http://127.0.0.1:{int(web.address.rpartition(':')[2]) + 1}/",
        "file:///etc/passwd",
        "/etc/passwd",
        "s3://bucket/key.jpg",
    ):
        refused = photos.post("/api/query/photos", json={"url": url})
        assert refused.status_code == 422
        assert "root:" not in refused.text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": "item0", "text": "shoe"},
        {"vector": [1.0, 2.0]},
        {"vector": [0.0]},
        {"id": "item0", "k": 0},
        {"id": "item0", "k": 10**9},
        {"id": "item0", "threshold": 7},
        {"id": "item0", "limit": 3},
        {"url": "http://" + "x" * 5000},
        {"text": "a red shoe"},
        {"id": "item0", "of": "../../etc"},
    ],
)
def test_invalid_query_is_refused_with_a_message(photos: TestClient, body: dict[str, Any]) -> None:
    response = photos.post("/api/query/photos", json=body)

    assert response.status_code in (404, 422)
    assert response.json()["detail"]


def test_unknown_item_and_catalog_are_not_found(photos: TestClient) -> None:
    for path, item in (("photos", "nobody"), ("nowhere", "item0"), ("photos", "é" * 10_000)):
        assert photos.post(f"/api/query/{path}", json={"id": item}).status_code == 404


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a", b"<svg/>", jpeg(1)[:200], png_of(60_000, 60_000)],
    ids=["empty", "cut", "svg", "truncated", "bomb"],
)
def test_upload_that_cannot_be_decoded_is_refused(photos: TestClient, data: bytes) -> None:
    response = _upload(photos, data)

    assert response.status_code == 422
    assert "image 0: " in response.json()["detail"]


def test_encoder_that_the_store_names_is_never_run(client: TestClient) -> None:
    known = client.post("/api/query/products/image", files=[("image", ("x", tiny(2)))])
    unknown = client.post("/api/query/products/image", files=[("image", ("x", tiny(77)))])

    assert known.json()["neighbors"][0]["id"] == "item2"
    assert unknown.status_code == 422
    assert "does not run" in unknown.json()["detail"]


def test_items_of_another_catalog_are_compared_if_the_encoder_is_the_same(
    photos: TestClient, store: Store
) -> None:
    indexed(store, "more", {"other": jpeg(4)}, HOG)
    indexed(store, "products", {"tiny": tiny(1)})
    photos.app.state.views.refresh()  # type: ignore[attr-defined]

    found = photos.post("/api/query/photos", json={"id": "other", "of": "more", "k": 1})
    refused = photos.post("/api/query/photos", json={"id": "tiny", "of": "products"})

    assert _ids(found) == ["item4"]
    assert (refused.status_code, "another encoder" in refused.text) == (422, True)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b'{"id": "\xff"}', b'{"id": NaN}', b'{"vector": [1e999]}', b"null"],
)
def test_malformed_body_is_refused(photos: TestClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}

    response = photos.post("/api/query/photos", content=body, headers=headers)

    assert response.status_code in (400, 404, 422)
    assert isinstance(response.json()["detail"], str)
