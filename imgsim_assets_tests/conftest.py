from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import encoders, s3
from imgsim_assets_tests.support.fast_dagster import disable_fsync, reuse_engines

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from imgsim_assets_tests.support.materialized_shops import MaterializedShops
    from imgsim_assets_tests.support.web import Web

# Examples are slow on a busy machine.
hypothesis.settings.register_profile("imgsim", deadline=None)
hypothesis.settings.load_profile("imgsim")
disable_fsync()
reuse_engines()


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of later garbage collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_fsync() -> Iterator[None]:
    """No file of a test has to outlive the machine; processes that tests start do sync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


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
    from imgsim_assets_tests.support.web import Web  # imports Dagster

    with Web() as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a module, whose thread can have no other event loop."""
    from imgsim_assets_tests.support.browser import open_browser

    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def materialized_shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MaterializedShops]:
    """Shops whose assets have been materialized."""
    from imgsim_assets_tests.support.materialized_shops import MaterializedShops

    with MaterializedShops(tmp_path_factory.mktemp("shops")) as shops:
        yield shops


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
