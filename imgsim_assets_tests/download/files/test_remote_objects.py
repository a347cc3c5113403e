from __future__ import annotations

import uuid
from collections.abc import Iterator

import fsspec
import pytest

from imgsim_assets.download.fetched import Fetched, Validators
from imgsim_assets.download.files.remote_objects import RemoteObjects
from imgsim_assets.download.status import FetchError

CONTENT = b"the bytes of an image"


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of fsspec's filesystem in memory, with one object."""
    url = f"memory://{uuid.uuid4().hex}/images"
    with fsspec.open(f"{url}/a.jpg", "wb") as file:
        file.write(CONTENT)
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


def test_read_returns_the_object_with_its_version(bucket: str) -> None:
    objects = RemoteObjects([f"{bucket}/"], max_bytes=100)
    fetched = objects.read(f"{bucket}/a.jpg")
    assert fetched.data == CONTENT
    assert objects.read(f"{bucket}/a.jpg", Validators(fetched.etag, None)) == Fetched(
        None, fetched.etag
    )
    assert objects.read(f"{bucket}/a.jpg", Validators("another", None)).data == CONTENT


@pytest.mark.parametrize(
    "url",
    [
        "{bucket}x/a.jpg",
        "{bucket}/../other/a.jpg",
        "memory://elsewhere/a.jpg",
        "ftp://127.0.0.1/a.jpg",
        "zip://a.jpg::{bucket}/a.zip",
        "{bucket}/a.zip::zip://a.jpg",
        "local:///etc/passwd",
    ],
)
def test_url_outside_the_prefixes_is_blocked(bucket: str, url: str) -> None:
    assert status_of([f"{bucket}/"], url.format(bucket=bucket)) == "blocked_path"


def test_no_prefix_is_allowed_by_default(bucket: str) -> None:
    assert status_of([], f"{bucket}/a.jpg") == "blocked_path"


@pytest.mark.parametrize(("name", "status"), [("gone.jpg", "missing_file"), ("", "missing_file")])
def test_missing_object_or_folder_is_a_missing_file(bucket: str, name: str, status: str) -> None:
    assert status_of([f"{bucket}/"], f"{bucket}/{name}") == status


def test_object_above_the_limit_is_refused(bucket: str) -> None:
    assert status_of([f"{bucket}/"], f"{bucket}/a.jpg", max_bytes=len(CONTENT) - 1) == "too_large"
    assert status_of([f"{bucket}/"], f"{bucket}/a.jpg", max_bytes=len(CONTENT)) == "ok"


def test_unknown_filesystem_is_a_connection_error() -> None:
    assert status_of(["nosuch://bucket/"], "nosuch://bucket/a.jpg") == "connection_error"


def status_of(prefixes: list[str], url: str, max_bytes: int = 100) -> str:
    try:
        RemoteObjects(prefixes, max_bytes).read(url)
    except FetchError as error:
        return error.status
    return "ok"
