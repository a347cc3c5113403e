"""Fixtures of joins, and of stores that are built once for a module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsim_assets.similarity import prefilter
from imgsim_assets.storage.store import Store


@pytest.fixture
def shops(store: Store, built: Path) -> Store:
    """A copy for one test of the store that its module has built."""
    shutil.copytree(built, store.url, dirs_exist_ok=True)
    return store


@pytest.fixture(scope="module")
def projected_always() -> Iterator[None]:
    """Let small joins project their rows, as large ones do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefilter, "_MIN_PROJECTED_WORK", 0)
        patch.setattr(prefilter, "_expected_cost", lambda *_: 0.0)
        yield
