from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.downloads import Catalog
from imgsim_assets_tests.support.faulty_server import Shop


@pytest.fixture
def things(store: Store, tmp_path: Path) -> Catalog:
    """A catalog that is not declared yet."""
    folder = tmp_path / "things"
    folder.mkdir()
    return Catalog(store, folder)


@pytest.fixture
def shop() -> Iterator[Shop]:
    """An HTTP server on loopback without pages yet, which may misbehave."""
    with Shop() as served:
        yield served
