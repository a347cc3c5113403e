"""Backfills with PostgreSQL, an object store and each engine: the tables of one machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from imgsim_assets.pipeline.verify import verify
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.deploy import engines
from imgsim_assets_tests.deploy.engines import Engine
from imgsim_assets_tests.deploy.files import DEPLOY
from imgsim_assets_tests.support import postgres
from imgsim_assets_tests.support.processes import Daemons, descendants
from imgsim_assets_tests.support.servers import Servers
from imgsim_assets_tests.support.shop import Shop, results
from imgsim_assets_tests.support.web import Web

pytestmark = pytest.mark.slow

EVERYTHING = [
    *(f"{name}/{stage}" for name in ("products", "suppliers") for stage in ("items", "images")),
    *(f"{name}/{stage}" for name in ("products", "suppliers") for stage in ("embeddings", "index")),
    "products/similarity_graph",
    "matches/pair",
]


@dataclass(frozen=True)
class Deployment:
    """A shop under a file of deploy/dagster/, and the tables that one machine computes."""

    shop: Shop
    servers: Servers
    daemons: Daemons
    expected: dict[str, pl.DataFrame]

    def assert_equals_one_machine(self) -> None:
        store = Store.open()
        assert store.url.startswith("s3://")
        assert verify(store).problems == []
        for name, rows in results(store).items():
            assert rows.equals(self.expected[name]), name


@contextlib.contextmanager
def _deployed(
    make: Callable[[Path], Engine], folder: Path, bucket: str, patch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    """Compute the tables on one machine, then start the services for an empty store."""
    sockets = tempfile.mkdtemp(prefix="imgsim-")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        engine = make(Path(sockets))
        web = stack.enter_context(Web())
        shop = Shop.open(folder, web, products=16, suppliers=6)
        shop.declare(
            shards=2,
            max_shards_per_run=1,
            download={"allowed_hosts": [web.address], "retries": 0, "max_per_host": 2},
            suppliers={"shards": 1},
        )
        assert shop.project.materialize()
        expected = results(shop.project.store)
        # The home of the computation on one machine has been SQLite.
        text = (DEPLOY / "dagster" / f"{make.__name__}.yaml").read_text()
        text = text.replace("poll_interval_seconds: 30", "poll_interval_seconds: 3")
        text = text.replace("max_concurrent_runs: 4", "max_concurrent_runs: 2")
        variables = {
            **stack.enter_context(postgres.running()),
            **engine.variables,
            "DAGSTER_LOGS_BUCKET": bucket.removeprefix("s3://"),
            "IMGSIM_STORE": f"{bucket}/store",
            "DAGSTER_GRPC_TIMEOUT_SECONDS": "600",  # on a busy machine
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        servers = Servers(shop.project, home=text)
        servers.prepare()
        path = os.pathsep.join([str(shop.project.root), str(Path(__file__).parents[2])])
        bin_folder = str(Path(sys.executable).parent)
        environment = shop.project.environment(
            PYTHONPATH=path, PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
        )
        daemons = stack.enter_context(Daemons(shop.project.root, environment))
        for name, command in [*engine.servers.items(), *engine.workers.items()]:
            daemons.start(name, command)
        servers.wait_for(engine.is_ready, "the engine", 900)
        stack.callback(servers.stop)
        servers.start()
        servers.stop_sensors()
        yield Deployment(shop, servers, daemons, expected)


@pytest.mark.parametrize("make", [engines.local, engines.ray, engines.celery])
def test_a_backfill_in_several_runs_gives_the_tables_of_one_machine(
    make: Callable[[Path], Engine],
    tmp_path: Path,
    localbucket_root: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _deployed(make, tmp_path, localbucket_root, monkeypatch) as deployment:
        backfill = deployment.servers.launch(EVERYTHING)

        assert deployment.servers.ended(backfill, 1800) == "COMPLETED_SUCCESS"

        assert len(deployment.servers.runs_of(backfill)) >= 4
        deployment.assert_equals_one_machine()


@pytest.mark.parametrize("make", [engines.local, engines.ray])
def test_a_run_whose_worker_is_killed_is_run_again(
    make: Callable[[Path], Engine],
    tmp_path: Path,
    localbucket_root: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _deployed(make, tmp_path, localbucket_root, monkeypatch) as deployment:
        servers, web = deployment.servers, deployment.shop.web
        pages = deployment.shop.slow_down(2.0)
        before = web.total_gets
        backfill = servers.launch(EVERYTHING)
        servers.wait_for(lambda: web.total_gets > before + 4, "the first downloads", 900)
        time.sleep(6)  # downloads are committed every five seconds

        if make is engines.ray:
            busy = servers.wait_for(lambda: _busy_worker(deployment), "a worker with a run", 600)
            deployment.daemons.kill(busy)
        else:
            for process in servers.wait_for(lambda: _run_processes(deployment), "a run", 600):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

        web.pages.update(pages)
        assert servers.ended(backfill, 1800) == "COMPLETED_SUCCESS"
        assert servers.retried_runs_of(backfill)
        deployment.assert_equals_one_machine()


def _busy_worker(deployment: Deployment) -> str | None:
    """A worker below which a run works."""
    for name in ("worker0", "worker1"):
        if any(deployment.daemons.holds(name, each) for each in _run_processes(deployment)):
            return name
    return None


def _run_processes(deployment: Deployment) -> list[int]:
    """The processes of one run that fetches, with all below them."""
    with deployment.shop.project.instance() as instance:
        started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
        for record in instance.get_run_records(started):
            for entry in instance.all_logs(record.dagster_run.run_id):
                process = _process_of(entry.dagster_event)
                if process is not None and Path(f"/proc/{process}").exists():
                    return descendants(process)
    return []


def _process_of(event: dg.DagsterEvent | None) -> int | None:
    data: Any = event.event_specific_data if event is not None else None
    pid = (getattr(data, "metadata", None) or {}).get("pid")
    return int(pid.value) if pid is not None else None
