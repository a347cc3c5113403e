"""Processes that a test starts, and all that these start in turn."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path


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
