"""Runs of Dagster on a Ray cluster: terminated by the web server, and without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from imgsim_assets.pipeline.verify import verify
from imgsim_assets.similarity.graph import GraphStage
from imgsim_assets.similarity.settings import GraphSettings
from imgsim_assets_tests.support.projects import Project
from imgsim_assets_tests.support.ray_cluster import RayCluster
from imgsim_assets_tests.support.servers import Servers
from imgsim_assets_tests.support.tables import latest_commit
from imgsim_assets_tests.support.vector_catalog import write_catalog
from imgsim_assets_tests.support.vectors import families

pytestmark = pytest.mark.slow
pytest.importorskip("ray")
_GRAPH = "shop/similarity_graph"
# So many that the tasks run for some seconds.
_ROWS = 60_000
_HOME = """
telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
"""
# They stop within seconds, but not on every machine.
_STOPPED_S = 60.0


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with the vectors of a catalog, whose graph is to be computed."""
    project = Project.make(tmp_path / "project")
    project.write("shop.csv", "id,url\n")
    settings = {"name": "shop", "source": "shop.csv", "graph": {"k": 5}, "compute": "ray"}
    project.declare("shop", "ImageCatalogComponent", settings)
    return project


@pytest.fixture
def servers(project: Project) -> Iterator[Servers]:
    """A web server for the project, once it is started."""
    write_catalog(project.store, "shop", families(_ROWS, 64, 0))
    servers = Servers(project, home=_HOME)
    servers.prepare()
    yield servers
    servers.stop()


def test_terminated_run_stops_its_tasks_and_the_next_one_completes(
    servers: Servers, cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", cluster.address)
    servers.start_web_server()
    store = servers.project.store
    run = servers.launch_run(_GRAPH)
    servers.wait_for(lambda: cluster.workers_at("join"), "the first tasks")

    servers.terminate(run)
    servers.wait_for(lambda: not cluster.workers_at("join"), "the end of the tasks", _STOPPED_S)

    assert servers.run_ended(run) == "CANCELED"
    assert not cluster.workers_at("join")
    assert store.table(_GRAPH).latest() is None
    assert verify(store).problems == []

    assert servers.run_ended(servers.launch_run(_GRAPH)) == "SUCCESS"
    alone = GraphStage(store, "shop", GraphSettings(k=5), variant="alone")
    alone.run()
    expected = [(file.role, file.sha256) for file in latest_commit(alone.table).files]
    found = latest_commit(store.table(_GRAPH)).files
    assert [(file.role, file.sha256) for file in found] == expected


def test_run_without_a_cluster_fails_at_once_and_says_what_to_do(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_RAY_ADDRESS", "127.0.0.1:1")
    write_catalog(project.store, "shop", families(200, 64, 0))
    job = project.definitions().resolve_implicit_global_asset_job_def()

    with project.instance() as instance:
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(_GRAPH.split("/"))],
            raise_on_error=False,
        )

    assert not result.success
    assert not any(event.is_step_up_for_retry for event in result.all_events)
    (error,) = (str(event.step_failure_data.error) for event in result.get_step_failure_events())
    assert "no Ray cluster can be reached at '127.0.0.1:1' (IMGSIM_RAY_ADDRESS)" in error
    assert "set the variable to host:6379 on a machine of the cluster" in error
