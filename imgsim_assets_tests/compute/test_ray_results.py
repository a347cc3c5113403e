"""Results that are computed on a Ray cluster are those of one machine, file for file."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.compute.ray import RayRunner
from imgsim_assets.compute.runner import TaskKind
from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.index.stage import IndexStage
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings, MatchSettings
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.compared_stores import (
    CASES_OF_IMAGES,
    Case,
    case,
    files_of,
    graph,
    groups,
    matches,
)
from imgsim_assets_tests.support.ray_cluster import RayCluster
from imgsim_assets_tests.support.tables import latest_commit
from imgsim_assets_tests.support.vector_catalog import write_catalog, write_ledger
from imgsim_assets_tests.support.vectors import families

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
_RAY = ComputeSettings(engine="ray")
_TIMEOUT_S = 300.0
_ROWS = 24_000
_MEASURED = ["join", "nearest items"]
_IVF = IndexSettings(kind="ivf", min_items=1)
_CASES_OF_VECTORS = {
    "best": matches(MatchSettings(threshold=0.9)),
    "all": matches(MatchSettings(threshold=0.9, mode="all")),
    "top_k": matches(MatchSettings(threshold=None, mode="top_k", k=3)),
    "mutual": matches(MatchSettings(threshold=0.9, mode="mutual")),
    "one_to_one": matches(MatchSettings(threshold=0.9, mode="one_to_one")),
    "mean_best": matches(MatchSettings(threshold=0.9, compare="mean_best")),
    "auto matches": matches(MatchSettings(threshold="auto"), _MEASURED),
    "approximate matches": matches(MatchSettings(threshold=0.9, method="approximate")),
    "graph": graph(GraphSettings(k=5)),
    "auto graph": graph(GraphSettings(k=5, threshold="auto"), _MEASURED),
    "approximate graph": graph(GraphSettings(k=5, method="approximate")),
    "groups": groups(GroupSettings(threshold=0.9)),
    "star groups": groups(GroupSettings(threshold=0.9, linkage="star")),
    "auto groups": groups(GroupSettings(), _MEASURED),
    "approximate groups": groups(GroupSettings(threshold=0.9, method="approximate")),
    "index": case(lambda store: IndexStage(store, "shop", _IVF), ["inverted lists"]),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two catalogs of several blocks."""
    store = Store.open(tmp_path_factory.mktemp("built"))
    for seed, name in enumerate(("shop", "suppliers")):
        write_catalog(store, name, families(_ROWS, 64, seed))
        write_ledger(store, name, _ROWS)
    return Path(store.url)


@pytest.fixture
def shops(store: Store, built: Path) -> Store:
    shutil.copytree(built, store.url, dirs_exist_ok=True)
    return store


@pytest.fixture
def on_cluster(cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """The cluster, at which tasks arrive."""
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", cluster.address)
    return cluster


@pytest.fixture
def labels(on_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the tasks do that are sent to the cluster."""
    sent: list[str] = []
    send = RayRunner.map

    def map_tasks(
        runner: RayRunner, function: Callable[[Any], Any], tasks: Sequence[Any], kind: TaskKind
    ) -> Iterator[Any]:
        sent.append(kind.label)
        return send(runner, function, tasks, kind)

    monkeypatch.setattr(RayRunner, "map", map_tasks)
    return sent


def _files(table: Table) -> list[tuple[str, str]]:
    """What a commit holds: the role and the checksum of each file."""
    return [(file.role, file.sha256) for file in latest_commit(table).files]


def _graph(store: Store, variant: str, compute: ComputeSettings) -> list[tuple[str, str]]:
    stage = GraphStage(store, "shop", GraphSettings(k=5), variant=variant)
    with use_compute(compute):
        stage.run()
    return _files(stage.table)


def _assert_same_files(case: Case, built: Path, folder: Path, labels: list[str]) -> None:
    """One machine and the cluster leave the same files in two copies of a store."""
    one, other = (Store.open(shutil.copytree(built, folder / name)) for name in ("one", "other"))

    case.stage(one).run()
    with use_compute(_RAY):
        case.stage(other).run()

    assert set(labels) >= case.labels
    assert files_of(other) == files_of(one)


@pytest.mark.parametrize("name", _CASES_OF_VECTORS)
def test_files_of_many_vectors_are_those_of_one_machine(
    tmp_path: Path, built: Path, labels: list[str], name: str
) -> None:
    _assert_same_files(_CASES_OF_VECTORS[name], built, tmp_path, labels)


@pytest.mark.parametrize("name", CASES_OF_IMAGES)
def test_files_of_images_are_those_of_one_machine(
    tmp_path: Path, built_of_images: Path, labels: list[str], name: str
) -> None:
    _assert_same_files(CASES_OF_IMAGES[name], built_of_images, tmp_path, labels)


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


def test_graph_is_the_same_when_a_worker_is_killed(shops: Store, on_cluster: RayCluster) -> None:
    expected = _graph(shops, "local", ComputeSettings())

    found = _run_while(on_cluster, shops, lambda process: os.kill(process, signal.SIGKILL))

    assert found == expected


def test_graph_is_the_same_when_a_node_is_killed(
    shops: Store, mortal_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", mortal_cluster.address)
    expected = _graph(shops, "local", ComputeSettings())

    found = _run_while(mortal_cluster, shops, lambda _: mortal_cluster.kill_node(2))

    assert found == expected


def test_graph_of_a_cluster_is_updated_on_one_machine_and_the_other_way_round(
    shops: Store, on_cluster: RayCluster
) -> None:
    for variant, engines in (("a", (_RAY, ComputeSettings())), ("b", (ComputeSettings(), _RAY))):
        write_catalog(shops, "shop", families(_ROWS, 64, 0))
        _graph(shops, variant, engines[0])
        assert _graph(shops, variant, engines[1]) == _graph(shops, variant, engines[0])
        write_catalog(shops, "shop", families(_ROWS, 64, 0)[: _ROWS - 100])
        _graph(shops, variant, engines[1])

    assert _files(GraphStage(shops, "shop", GraphSettings(k=5), variant="a").table) == _files(
        GraphStage(shops, "shop", GraphSettings(k=5), variant="b").table
    )


def test_python_of_the_page_about_clusters_runs(
    tmp_path: Path,
    on_cluster: RayCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_catalog(Store.open("data/store"), "products", families(200, 64, 0))
    page = Path(__file__).parents[2] / "docs" / "compute.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)

    exec(code, {})

    assert "2000 edges" in capsys.readouterr().out
