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

import ray

_START_S = 300.0


class RayCluster:
    """Nodes of one core each; the first is the head.

    Args:
        folder: where the processes write; its path is short, because sockets lie in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._ports = port, client_port = _free_port(), _free_port()
        self.client_address = f"ray://127.0.0.1:{client_port}"
        # Nodes of one machine know each other by its own address, not by loopback.
        self.address = f"{ray.util.get_node_ip_address()}:{port}"

    def start(self, nodes: int) -> None:
        """Start the nodes, and wait until they have joined."""
        port, client_port = self._ports
        self._start(
            *("--head", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"),
            f"--ray-client-server-port={client_port}",
        )
        self._await_nodes(1)
        for number in range(2, nodes + 1):
            self._start(f"--address={self.address}")
            self._await_nodes(number)

    def kill_node(self, number: int) -> None:
        """SIGKILL for all processes of a node, counted from 1."""
        _kill_session(self._nodes[number - 1])

    def workers_at(self, label: str) -> list[int]:
        """The processes that run a task of a label now."""
        title = f"ray::{label}".encode()
        members = [process for node in self._nodes for process in _session(node.pid)]
        return [process for process in members if _command(process).startswith(title)]

    def stop(self) -> None:
        """Kill all nodes."""
        for node in reversed(self._nodes):
            _kill_session(node)

    def _start(self, *options: str) -> None:
        command = [
            sys.executable,
            *("-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"),
            *("--object-store-memory=100000000", f"--temp-dir={self._folder / 'ray'}"),
            *options,
        ]
        environment = {
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": str(int(_START_S)),
            # Another test may need the machine's memory.
            "RAY_memory_monitor_refresh_ms": "0",
        }
        log = (self._folder / f"node_{len(self._nodes)}.log").open("wb")
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
    cluster = RayCluster(folder)
    try:
        cluster.start(nodes)
        yield cluster
    finally:
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


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
