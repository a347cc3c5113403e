"""Ray clusters of two nodes, each of one core: real processes, which tests may kill."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

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


@pytest.fixture(autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    """A process has one connection to a cluster, and tests use several clusters."""
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()
