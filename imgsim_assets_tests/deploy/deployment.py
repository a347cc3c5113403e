"""A shop under a file of deploy/dagster/: its services, and the tables of one machine."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from imgsim_assets.pipeline.verify import verify
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.deploy.engines import Engine
from imgsim_assets_tests.deploy.files import DEPLOY
from imgsim_assets_tests.support import postgres
from imgsim_assets_tests.support.processes import Daemons, descendants
from imgsim_assets_tests.support.servers import Servers
from imgsim_assets_tests.support.shop import Shop, results
from imgsim_assets_tests.support.web import Web

# The daemon looks more often than deploy/dagster/ says, and starts no more runs than cores.
_QUICK = {
    "poll_interval_seconds: 30": "poll_interval_seconds: 3",
    "free_slots_after_run_end_seconds: 60": "free_slots_after_run_end_seconds: 3",
    "max_concurrent_runs: 4": "max_concurrent_runs: 2",
}
_NEW = range(16, 36)

Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Deployment:
    """The services of one engine.

    Attributes:
        first: the tables of the catalogs as they are, computed on one machine.
        second: those after `update`.
    """

    shop: Shop
    engine: Engine
    servers: Servers
    daemons: Daemons
    first: Tables
    second: Tables

    def assert_store_has(self, expected: Tables) -> None:
        store = Store.open()
        assert store.url.startswith("s3://")
        assert verify(store).problems == []
        for name, rows in results(store).items():
            assert rows.equals(expected[name]), name

    def working_run(self) -> tuple[str, list[int]] | None:
        """A run with its processes on this machine, the first of them above the others."""
        with self.shop.project.instance() as instance:
            started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
            for record in instance.get_run_records(started):
                run = record.dagster_run.run_id
                for entry in instance.all_logs(run):
                    process = _process_of(entry.dagster_event)
                    if process is not None and Path(f"/proc/{process}").exists():
                        return run, descendants(process)
        return None

    def worker_of(self, processes: list[int]) -> str:
        """The worker that runs a process."""
        return next(name for name in self.engine.workers if self.daemons.holds(name, processes[0]))


def update(shop: Shop) -> None:
    """Add products, and change one."""
    for number in _NEW:
        shop.put_item(f"p{number}", number)
    shop.put_item("p0", 100)


def _take_back(shop: Shop) -> None:
    for number in _NEW:
        shop.remove_item(f"p{number}")
    shop.put_item("p0", 0)


@contextlib.contextmanager
def deployed(
    make: Callable[[Path], Engine], folder: Path, bucket: str, patch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    """Compute the tables on one machine, then start the services for an empty store.

    Args:
        make: of `engines`; it has the name of its file.
        folder: of the project.
        bucket: an empty one, of the S3 server that the environment names.
        patch: receives the variables of the deployment.
    """
    sockets = tempfile.mkdtemp(prefix="imgsim-")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        engine = make(Path(sockets))
        shop = _open_shop(folder, stack.enter_context(Web()))
        first, second = _tables_of_one_machine(shop)
        variables = {
            **stack.enter_context(postgres.running()),
            **engine.variables,
            "DAGSTER_LOGS_BUCKET": bucket.removeprefix("s3://"),
            "IMGSIM_STORE": f"{bucket}/store",
            "DAGSTER_GRPC_TIMEOUT_SECONDS": "600",  # on a busy machine
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        home = (DEPLOY / "dagster" / f"{make.__name__}.yaml").read_text()
        for declared, quick in _QUICK.items():
            assert declared in home
            home = home.replace(declared, quick)
        servers = Servers(shop.project, home=home)
        servers.prepare()
        # As deploy/README.md says, before the first backfill.
        with shop.project.instance() as instance:
            for pool in ("network", "gpu", "cpu"):
                instance.event_log_storage.set_concurrency_slots(pool, 4)
        daemons = stack.enter_context(Daemons(shop.project.root, _environment(shop)))
        _start(engine, daemons, servers)
        stack.callback(servers.stop)
        servers.start()
        servers.stop_sensors()
        yield Deployment(shop, engine, servers, daemons, first, second)


def _open_shop(folder: Path, web: Web) -> Shop:
    shop = Shop.open(folder, web, products=16, suppliers=6)
    shop.declare(
        shards=2,
        max_shards_per_run=1,
        download={"allowed_hosts": [web.address], "retries": 0, "max_per_host": 2},
        suppliers={"shards": 1},
    )
    return shop


def _tables_of_one_machine(shop: Shop) -> tuple[Tables, Tables]:
    """The tables before and after the update, with SQLite and a folder."""
    assert shop.project.materialize()
    first = results(shop.project.store)
    update(shop)
    assert shop.project.materialize()
    second = results(shop.project.store)
    _take_back(shop)
    return first, second


def _start(engine: Engine, daemons: Daemons, servers: Servers) -> None:
    """Start an engine, one process after the other: a node of Ray does not wait long for others."""
    for name, command in engine.servers.items():
        daemons.start(name, command)
    servers.wait_for(lambda: engine.has_workers(0), "the servers of the engine", 900)
    for count, (name, command) in enumerate(engine.workers.items(), 1):
        daemons.start(name, command)
        servers.wait_for(functools.partial(engine.has_workers, count), name, 900)


def _environment(shop: Shop) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return shop.project.environment(PATH=path)


def _process_of(event: dg.DagsterEvent | None) -> int | None:
    data: Any = event.event_specific_data if event is not None else None
    pid = (getattr(data, "metadata", None) or {}).get("pid")
    return int(pid.value) if pid is not None else None
