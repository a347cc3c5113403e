from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import encoders, s3
from imgsim_assets_tests.support.fast_sqlite import disable_fsync
from imgsim_assets_tests.support.web import Web

disable_fsync()


@pytest.fixture(autouse=True)
def _no_store_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IMGSIM_STORE", "DAGSTER_HOME", encoders.COUNTER):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store on disk."""
    return Store.open(tmp_path / "store")


@pytest.fixture
def web() -> Iterator[Web]:
    """An HTTP server on loopback without pages yet."""
    with Web() as served:
        yield served


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An object store on loopback that honors If-None-Match."""
    with s3.running() as endpoint:
        yield endpoint


@pytest.fixture
def s3_root(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket."""
    for name, value in s3.environment(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return s3.new_bucket()
