"""Functions of tasks, which workers of a cluster import."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from imgsim_assets.compute.ray import RayRunner
from imgsim_assets.compute.runner import TaskKind
from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.errors import StoreError

RELEASE = "release"
_WAIT_S = 120.0


def square(number: int) -> int:
    return number * number


def process_of(_: int) -> int:
    return os.getpid()


def fail(number: int) -> int:
    raise StoreError(f"task {number} found no file")


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def wait_for_release(folder: Path, number: int) -> int:
    """Write which process runs the task, and wait for a file RELEASE; task 0 waits for nothing."""
    (folder / f"{number}.{os.getpid()}").touch()
    deadline = time.monotonic() + _WAIT_S
    while number and not (folder / RELEASE).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return number


def main() -> None:
    """Run tasks that wait, in a process that a test interrupts: ADDRESS FOLDER."""
    address, folder = sys.argv[1:]
    runner = RayRunner(address, ComputeSettings(engine="ray"))
    for _ in runner.map(partial(wait_for_release, Path(folder)), [1, 2], TaskKind("waiting")):
        pass


if __name__ == "__main__":
    main()
