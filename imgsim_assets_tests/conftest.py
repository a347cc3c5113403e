from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support import encoders
from imgsim_assets_tests.support.web import Web


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
