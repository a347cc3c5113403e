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
    for name in (
        "IMGSIM_STORE",
        "IMGSIM_SERVE_URL",
        "IMGSIM_RAY_ADDRESS",
        "DAGSTER_HOME",
        encoders.COUNTER,
    ):
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
    return s3.use(s3_endpoint, monkeypatch)


@pytest.fixture(scope="session")
def localbucket_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An object store that honors If-None-Match, and words a lost race in its own way."""
    with s3.serving("localbucket", tmp_path_factory.mktemp("localbucket")) as endpoint:
        yield endpoint


@pytest.fixture
def localbucket_root(localbucket_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket of localbucket."""
    return s3.use(localbucket_endpoint, monkeypatch)


@pytest.fixture
def nanio_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket of nanio, which ignores If-None-Match."""
    with s3.serving("nanio", tmp_path / "nanio") as endpoint:
        yield s3.use(endpoint, monkeypatch)
