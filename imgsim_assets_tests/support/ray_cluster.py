"""A Ray cluster of processes on this machine, whose nodes can be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_START_S = 120.0


class RayCluster:
    """Nodes of one core each; the first is the head.

    Args:
        folder: where the processes write; its path is short, because sockets lie in it.
        nodes: how many.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self._folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []
        port = _free_port()
        self.address = f"127.0.0.1:{port}"
        self._start(
            "--head", f"--port={port}", f"--ray-client-server-port={_free_port()}", address=1
        )
        self._await_nodes(1)
        for number in range(2, nodes + 1):
            self.add_node(number)

    def add_node(self, number: int) -> None:
        """Start another node, and wait until it has joined."""
        self._start(f"--address={self.address}", address=number)
        self._await_nodes(number)

    def kill_node(self, number: int) -> None:
        """SIGKILL for all processes of a node, counted from 1."""
        _kill_session(self._nodes[number - 1])

    def stop(self) -> None:
        """Kill all nodes."""
        for node in reversed(self._nodes):
            _kill_session(node)

    def _start(self, *options: str, address: int) -> None:
        command = [
            sys.executable,
            *("-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"),
            *("--include-dashboard=false", "--disable-usage-stats"),
            *("--object-store-memory=100000000", f"--temp-dir={self._folder / 'ray'}"),
            f"--node-ip-address=127.0.0.{address}",
            *options,
        ]
        environment = {
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Another test may need the machine's memory.
            "RAY_memory_monitor_refresh_ms": "0",
        }
        log = (self._folder / f"node_{address}.log").open("wb")
        self._nodes.append(
            subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        )

    def _await_nodes(self, count: int) -> None:
        listed = (
            "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); "
            "print(sum(node['Alive'] for node in ray.nodes()))"
        )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            done = subprocess.run(
                [sys.executable, "-c", listed, self.address], capture_output=True, text=True
            )
            if done.returncode == 0 and int(done.stdout.split()[-1]) >= count:
                return
            time.sleep(0.2)
        logs = [path.read_text() for path in sorted(self._folder.glob("node_*.log"))]
        raise TimeoutError("\n".join([*logs, done.stderr]))


@contextlib.contextmanager
def running(nodes: int) -> Iterator[RayCluster]:
    """A cluster while the context lasts."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    cluster = None
    try:
        cluster = RayCluster(folder, nodes)
        yield cluster
    finally:
        if cluster is not None:
            cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _kill_session(leader: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all that it started, until none of them is left."""
    while processes := _session(leader.pid):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        leader.poll()
        time.sleep(0.02)
    leader.wait()


def _session(leader: int) -> list[int]:
    members = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                # After the name, which is in parentheses: state, parent, group, session.
                values = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(values[3]) == leader and values[0] != "Z":
                    members.append(int(folder.name))
    return members


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
