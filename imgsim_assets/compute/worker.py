"""What a worker of a cluster runs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from imgsim_assets import __version__
from imgsim_assets.compute.device import use_device
from imgsim_assets.compute.memory import use_memory_budget
from imgsim_assets.errors import ComputeError

# The function of the tasks that this process ran last, by its key. It may hold what it has read.
_last: tuple[str, Callable[[Any], Any]] | None = None


def run_task(
    key: str, shared: Sequence[Any], task: Any, version: str, device: str, memory_budget: int
) -> Any:
    """The result of a task of another process. Its function is fetched once for many tasks.

    Args:
        key: of the function.
        shared: the reference of the function in Ray's object store.
        task: its argument.
        version: of this package in the process that needs the result.
        device: of joins, as declared.
        memory_budget: bytes, as declared.

    Raises:
        ComputeError: This machine has another version of the package.
    """
    global _last
    if version != __version__:
        raise ComputeError(
            f"compute: ray: {socket.gethostname()} has imgsim_assets {__version__}, and the step "
            f"{version}; install the same version on every node"
        )
    if _last is None or _last[0] != key:
        import ray

        _last = None  # what the function before has read is released first
        _last = key, ray.get(shared[0])
    with use_device(device), use_memory_budget(memory_budget):
        return _last[1](task)
