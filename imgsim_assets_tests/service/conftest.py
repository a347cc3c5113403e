from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from imgsim_assets.service.app import create_app
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, tiny


@pytest.fixture
def served(store: Store) -> Store:
    """A store with the catalog `products` of five images."""
    indexed(store, "products", {f"item{seed}": tiny(seed) for seed in range(5)})
    return store


@pytest.fixture
def client(served: Store) -> Iterator[TestClient]:
    """A client of the application over this store."""
    with TestClient(create_app(served), base_url="http://localhost") as opened:
        yield opened
