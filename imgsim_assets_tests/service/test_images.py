from __future__ import annotations

import io

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from imgsim_assets_tests.support.catalogs import sha256_of, tiny
from imgsim_assets_tests.support.images import encoded, make_image


def test_original_has_the_bytes_that_were_downloaded(client: TestClient) -> None:
    response = client.get(f"/api/images/{sha256_of(tiny(1))}")

    assert response.content == tiny(1)
    assert response.headers["content-type"] == "image/png"


def test_thumbnail_fits_into_the_side_and_is_cached_by_its_etag(client: TestClient) -> None:
    url = f"/api/images/{sha256_of(tiny(1))}?side=16"

    response = client.get(url)
    again = client.get(url, headers={"If-None-Match": response.headers["etag"]})

    assert max(Image.open(io.BytesIO(response.content)).size) <= 16
    assert "immutable" in response.headers["cache-control"]
    assert (again.status_code, again.content) == (304, b"")


def test_image_that_browsers_do_not_show_is_a_download(client: TestClient) -> None:
    data = encoded(make_image(3), "TIFF")
    store = client.app.state.views.current.store  # type: ignore[attr-defined]
    sha256 = store.blobs.put(data)
    store.blobs.flush()

    response = client.get(f"/api/images/{sha256}")

    assert response.content == data
    assert response.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("0" * 64, 404),
        ("../../etc/passwd", 404),
        ("..%2F..%2Fetc%2Fpasswd", 404),
        ("A" * 64, 422),
        ("0" * 63, 422),
        ("0" * 64 + "%00", 422),
    ],
)
def test_only_images_of_the_store_are_served(client: TestClient, name: str, status: int) -> None:
    assert client.get(f"/api/images/{name}").status_code == status


def test_blob_that_is_no_image_has_no_thumbnail(client: TestClient) -> None:
    store = client.app.state.views.current.store  # type: ignore[attr-defined]
    sha256 = store.blobs.put(b"<svg onload=alert(1)>")
    store.blobs.flush()

    assert client.get(f"/api/images/{sha256}?side=64").status_code == 404
    original = client.get(f"/api/images/{sha256}")
    assert original.headers["content-type"] == "application/octet-stream"
    assert original.headers["x-content-type-options"] == "nosniff"
