"""Results that are computed on a Ray cluster are those of one machine, file for file."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.matches import MatchStage
from imgsim_assets.similarity.settings import GraphSettings, MatchSettings
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.ray_cluster import RayCluster, running
from imgsim_assets_tests.support.tables import latest_commit
from imgsim_assets_tests.support.vector_catalog import write_catalog
from imgsim_assets_tests.support.vectors import families

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
_RAY = ComputeSettings(engine="ray")
_TIMEOUT_S = 300.0
_ROWS = 24_000
_MATCHES = [
    MatchSettings(threshold=0.9),
    MatchSettings(threshold=0.9, mode="all"),
    MatchSettings(threshold=0.9, mode="mutual"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two catalogs of several blocks, whose graph and match tables one machine has."""
    store = Store.open(tmp_path_factory.mktemp("built"))
    for seed, name in enumerate(("shop", "suppliers")):
        write_catalog(store, name, families(_ROWS, 64, seed))
    return Path(store.url)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with running(nodes=2) as cluster:
        yield cluster


@pytest.fixture
def mortal_cluster() -> Iterator[RayCluster]:
    with running(nodes=2) as cluster:
        yield cluster


@pytest.fixture
def shops(store: Store, built: Path) -> Store:
    shutil.copytree(built, store.url, dirs_exist_ok=True)
    return store


@pytest.fixture(autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    yield
    ray.shutdown()


def _files(table: Table) -> list[tuple[str, str]]:
    """What a commit holds: the role and the checksum of each file."""
    return [(file.role, file.sha256) for file in latest_commit(table).files]


def _graph(store: Store, variant: str, compute: ComputeSettings) -> list[tuple[str, str]]:
    stage = GraphStage(store, "shop", GraphSettings(k=5), variant=variant)
    with use_compute(compute):
        stage.run()
    return _files(stage.table)


@pytest.mark.parametrize("settings", _MATCHES, ids=lambda settings: settings.mode)
def test_match_table_has_the_files_of_one_machine(
    shops: Store, cluster: RayCluster, settings: MatchSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", cluster.address)
    files = {}
    for compute in (ComputeSettings(), _RAY):
        stage = MatchStage(shops, compute.engine, settings, left="shop", right="suppliers")
        with use_compute(compute):
            stage.run()
        files[compute.engine] = _files(stage.table)

    assert files["ray"] == files["local"]


def _run_while(
    cluster: RayCluster, store: Store, disturb: Callable[[int], None]
) -> list[tuple[str, str]]:
    """The graph of a cluster; the processes of its tasks are passed to `disturb` once."""
    done = threading.Event()
    disturbed: list[int] = []

    def watch() -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while not done.is_set() and not disturbed and time.monotonic() < deadline:
            for process in cluster.workers_at("join")[:1]:
                disturb(process)
                disturbed.append(process)
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        files = _graph(store, "ray", _RAY)
    finally:
        done.set()
        thread.join()
    assert disturbed, "no task was seen"
    return files


def test_graph_is_the_same_when_a_worker_is_killed(
    shops: Store, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", cluster.address)
    expected = _graph(shops, "local", ComputeSettings())

    found = _run_while(cluster, shops, lambda process: os.kill(process, signal.SIGKILL))

    assert found == expected


def test_graph_is_the_same_when_a_node_is_killed(
    shops: Store, mortal_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", mortal_cluster.address)
    expected = _graph(shops, "local", ComputeSettings())

    found = _run_while(mortal_cluster, shops, lambda _: mortal_cluster.kill_node(2))

    assert found == expected


def test_graph_of_a_cluster_is_updated_on_one_machine_and_the_other_way_round(
    shops: Store, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", cluster.address)
    for variant, engines in (("a", (_RAY, ComputeSettings())), ("b", (ComputeSettings(), _RAY))):
        write_catalog(shops, "shop", families(_ROWS, 64, 0))
        _graph(shops, variant, engines[0])
        assert _graph(shops, variant, engines[1]) == _graph(shops, variant, engines[0])
        write_catalog(shops, "shop", families(_ROWS, 64, 0)[: _ROWS - 100])
        _graph(shops, variant, engines[1])

    assert _files(GraphStage(shops, "shop", GraphSettings(k=5), variant="a").table) == _files(
        GraphStage(shops, "shop", GraphSettings(k=5), variant="b").table
    )
