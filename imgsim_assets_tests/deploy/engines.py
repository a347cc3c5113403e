"""The engines of deploy/dagster/ on this machine, with two workers that can be killed."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imgsim_assets.demo.loopback import open_loopback
from imgsim_assets_tests.deploy.files import services
from imgsim_assets_tests.support.ports import free_port

Command = Sequence[str | Path]
_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "runtime-env-agent-port",
)
# A node of Ray gives up if it does not start within 30 seconds, as on a busy machine.
_REPEAT = ("bash", "-c", 'until "$@"; do sleep 1; done', "repeat")


@dataclass(frozen=True)
class Engine:
    """The processes of an engine.

    Attributes:
        variables: those of its `dagster.yaml`.
        servers: commands by name, which start first.
        workers: commands by name; each has a slot for one run.
        has_workers: whether the servers and so many workers are there.
        notices_death: whether Dagster learns that a worker died.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    servers: Mapping[str, Command] = field(default_factory=dict)
    workers: Mapping[str, Command] = field(default_factory=dict)
    has_workers: Callable[[int], bool] = lambda _: True
    notices_death: bool = True


def local(_: Path) -> Engine:
    """Runs are processes of the code location."""
    return Engine()


def ray(folder: Path) -> Engine:
    """A head node without cores, and two nodes with one core each."""
    pytest.importorskip("dagster_ray")
    # A second node does not join a head node whose address is 127.0.0.1.
    address = pytest.importorskip("ray.util").get_node_ip_address()
    port, dashboard, *ports = (free_port() for _ in range(2 + 3 * 4))
    # Nodes of one machine differ in their ports only. The path of a socket may be 107 bytes long.
    common = (
        *("--block", f"--node-ip-address={address}"),
        *("--object-store-memory=80000000", "--include-log-monitor=false"),
    )
    # A node waits 15 seconds for the file of each port that it has to choose.
    own = [
        tuple(f"--{name}={value}" for name, value in zip(_PORTS, ports[start::3], strict=True))
        for start in range(3)
    ]
    start = (*_REPEAT, str(_program("ray")), "start", *common)
    head = (
        *(*start, "--head", f"--port={port}", "--num-cpus=0", *own[0]),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"),
    )
    join = (*start, f"--address={address}:{port}", "--num-cpus=1")
    workers = {"worker0": (*join, *own[1]), "worker1": (*join, *own[2])}
    variables = {
        "RAY_DASHBOARD_URL": f"http://127.0.0.1:{dashboard}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(24),
        "RAY_USAGE_STATS_ENABLED": "0",
        # On a busy machine the parts of a node take their time, and others take its memory.
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
        "RAY_agent_register_timeout_ms": "300000",
        "RAY_worker_register_timeout_seconds": "300",
        "RAY_memory_monitor_refresh_ms": "0",
    }
    return Engine(variables, {"head": head}, workers, lambda n: _living_nodes(variables) == 1 + n)


def celery(folder: Path) -> Engine:
    """A redis server and two workers."""
    pytest.importorskip("dagster_celery")
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis is not installed (apt-get install redis-server)")
    port = free_port()
    redis = (server, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "")
    worker = [str(word) for word in services()["celery_worker"]["command"]]
    worker[0] = str(_program(worker[0]))
    url = f"redis://127.0.0.1:{port}"
    variables = {"CELERY_BROKER_URL": f"{url}/0", "CELERY_RESULT_BACKEND": f"{url}/1"}
    workers = {name: [*worker, "--hostname", f"{name}@%h"] for name in ("worker0", "worker1")}
    return Engine(
        variables, {"redis": redis}, workers, lambda _: _answers(port), notices_death=False
    )


def _living_nodes(variables: Mapping[str, str]) -> int:
    """How many nodes of a Ray cluster live, by the REST API of its dashboard."""
    request = urllib.request.Request(
        f"{variables['RAY_DASHBOARD_URL']}/api/v0/nodes",
        headers={"Authorization": f"Bearer {variables['RAY_AUTH_TOKEN']}"},
    )
    try:
        with open_loopback(request, timeout=30) as response:
            nodes = json.load(response)["data"]["result"]["result"]
    except OSError:  # the head node does not answer yet
        return 0
    return sum(node["state"] == "ALIVE" for node in nodes)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _program(name: str) -> Path:
    return Path(sys.executable).with_name(name)
