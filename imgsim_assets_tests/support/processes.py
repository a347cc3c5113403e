"""Processes that a test starts, and all that these start in turn."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Time for a process to load the code location and to do its work; a busy machine takes minutes.
BUSY_S = 600.0


def descendants(process: int) -> list[int]:
    """The ids of a process and of all below it, the process first."""
    children: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in parentheses, may contain anything.
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children[int(parent)].append(int(stat.parent.name))
    found = [process]
    for each in found:
        found += children[each]
    return found


def kill_when(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    """Kill a process as soon as `holds()`, which must be so before it ends by itself."""
    deadline = time.monotonic() + BUSY_S
    try:
        while not holds():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the moment to kill the process did not come"
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()


def assert_succeed(*processes: subprocess.Popen[str]) -> None:
    """Wait for processes, all of which must end with status 0."""
    try:
        outputs = [process.communicate(timeout=BUSY_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), outputs


class Daemons:
    """Long-running processes with their logs in one folder; a context manager that ends them."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Daemons:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running)[::-1]:
            process = self._running[name]
            _signal_all(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            self.kill(name)

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Start a process."""
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill a process and all below it at once, as a machine does that loses its power."""
        process = self._running.pop(name)
        _signal_all(process.pid, signal.SIGKILL)
        process.wait()

    def holds(self, name: str, process: int) -> bool:
        """Whether a process is below the one of that name."""
        return process in descendants(self._running[name].pid)


def _signal_all(process: int, number: int) -> None:
    for each in descendants(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)
