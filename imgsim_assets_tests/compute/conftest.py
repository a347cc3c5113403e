"""Ray clusters of two nodes, each of one core, which tests may kill; and a store to compute on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.compared_stores import write_images
from imgsim_assets_tests.support.ray_cluster import RayCluster, running


@pytest.fixture(scope="package")
def cluster() -> Iterator[RayCluster]:
    """Two nodes, which no test kills."""
    pytest.importorskip("ray")
    with running(nodes=2) as cluster:
        yield cluster


@pytest.fixture
def mortal_cluster() -> Iterator[RayCluster]:
    """Two nodes, which a test may kill."""
    pytest.importorskip("ray")
    with running(nodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="package")
def built_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two catalogs of a few images, both indexed; tests copy it."""
    store = Store.open(tmp_path_factory.mktemp("built"))
    write_images(store)
    return Path(store.url)


@pytest.fixture(autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    """A process has one connection to a cluster, and tests use several clusters."""
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()
