"""What a worker of a cluster runs."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

from imgsim_assets import __version__
from imgsim_assets.errors import ComputeError

T = TypeVar("T")
R = TypeVar("R")


def run_task(function: Callable[[T], R], task: T, version: str) -> R:
    """The result of a task of another process.

    Args:
        function: of this package.
        task: its argument.
        version: of this package in the process that needs the result.

    Raises:
        ComputeError: This machine has another version of the package.
    """
    if version != __version__:
        raise ComputeError(
            f"compute: ray: {socket.gethostname()} has imgsim_assets {__version__}, and the step "
            f"{version}; install the same version on every node"
        )
    return function(task)
