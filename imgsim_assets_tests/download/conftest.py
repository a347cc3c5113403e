from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.downloads import Catalog
from imgsim_assets_tests.support.faulty_server import PageServer


@pytest.fixture
def catalog(store: Store, tmp_path: Path) -> Catalog:
    """A catalog without items; `declare` adds them."""
    folder = tmp_path / "things"
    folder.mkdir()
    return Catalog(store, folder)


@pytest.fixture
def shop() -> Iterator[PageServer]:
    """An HTTP server on loopback without pages."""
    with PageServer() as served:
        yield served
