"""A Ray cluster of processes on this machine, whose nodes can be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from imgsim_assets_tests.support.ports import free_port

_START_S = 600.0
# In the output of `ray start`.
_STARTED = "Ray runtime started"
_PARTS = ("dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent", "metrics-export")


class RayCluster:
    """Nodes of one core each; the first is the head.

    Args:
        folder: where the processes write; its path is short, because sockets lie in it.
    """

    def __init__(self, folder: Path) -> None:
        # The tests of this module are skipped without Ray.
        from ray.util import get_node_ip_address

        self._folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._ports = port, client_port = free_port(), free_port()
        self.client_address = f"ray://127.0.0.1:{client_port}"
        # Nodes of one machine know each other by its own address, not by loopback.
        self.address = f"{get_node_ip_address()}:{port}"

    def start(self, nodes: int) -> None:
        """Start the nodes, and wait until they have joined."""
        port, client_port = self._ports
        self._start_until_listed(
            1,
            *("--head", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"),
            f"--ray-client-server-port={client_port}",
        )
        for number in range(2, nodes + 1):
            self._start_until_listed(number, f"--address={self.address}")

    def kill_node(self, number: int) -> None:
        """SIGKILL for all processes of a node, counted from 1."""
        _kill_session(self._nodes[number - 1])

    def workers_at(self, label: str) -> list[int]:
        """The processes that run a task of a label now."""
        title = f"ray::{label}".encode()
        return [process for process in self._members() if _command(process).startswith(title)]

    def cpu_seconds(self) -> float:
        """The processor time that the nodes have taken, with that of their workers."""
        return sum(map(_cpu_seconds, self._members()))

    def stop(self) -> None:
        """Kill all nodes."""
        for node in reversed(self._nodes):
            _kill_session(node)

    def _members(self) -> list[int]:
        return [process for node in self._nodes for process in _session(node.pid)]

    def _start_until_listed(self, count: int, *options: str) -> None:
        """Start a node, again and again on a machine that is too slow for Ray's own limits."""
        deadline = time.monotonic() + _START_S
        while not self._are_listed(count):
            if len(self._nodes) < count:
                self._start(*options)
            elif self._nodes[-1].poll() is not None:
                _kill_session(self._nodes.pop())
            if time.monotonic() > deadline:
                logs = [path.read_text() for path in sorted(self._folder.glob("node_*.log"))]
                raise TimeoutError("\n".join(logs))
            time.sleep(0.2)

    def _start(self, *options: str) -> None:
        command = [
            sys.executable,
            *("-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"),
            *("--object-store-memory=100000000", "--include-log-monitor=false"),
            f"--temp-dir={self._folder / 'ray'}",
            # A raylet would wait for ports that others choose, not long enough on a slow machine.
            *(f"--{part}-port={free_port()}" for part in _PARTS),
            *options,
        ]
        environment = {
            **os.environ,
            "RAY_USAGE_STATS_ENABLED": "0",
            # A token in the home folder would turn authentication on for the nodes alone.
            "RAY_AUTH_MODE": "disabled",
            "RAY_worker_register_timeout_seconds": f"{_START_S:.0f}",
            "RAY_agent_register_timeout_ms": f"{1000 * _START_S:.0f}",
            # Another test may need the machine's memory.
            "RAY_memory_monitor_refresh_ms": "0",
        }
        log = self._log_of(len(self._nodes)).open("wb")
        self._nodes.append(
            subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        )

    def _log_of(self, number: int) -> Path:
        return self._folder / f"node_{number}.log"

    def _are_listed(self, count: int) -> bool:
        """Whether the cluster has so many nodes; to ask it takes a process, so the log is first."""
        if len(self._nodes) < count or _STARTED not in self._log_of(count - 1).read_text():
            return False
        listed = (
            "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); "
            "print(sum(node['Alive'] for node in ray.nodes()))"
        )
        command = [sys.executable, "-c", listed, self.address]
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            return done.returncode == 0 and int(done.stdout.split()[-1]) >= count
        return False


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


def _cpu_seconds(process: int) -> float:
    """The processor time of a process, and of those of its children that have ended."""
    try:
        values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, values[11:15])) / os.sysconf("SC_CLK_TCK")


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""
