"""Tasks on a Ray cluster: run again where a worker or a node was lost, and stopped with the step.

Ray is imported when the first tasks are run. The connection then lasts as long as the process.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar

from imgsim_assets import __version__
from imgsim_assets.compute.device import use_device
from imgsim_assets.compute.runner import TaskKind
from imgsim_assets.compute.settings import ADDRESSES, RAY_ADDRESS, ComputeSettings
from imgsim_assets.compute.worker import run_task
from imgsim_assets.errors import ComputeError, SettingsError, one_line
from imgsim_assets.progress import Log, Progress, silent

T = TypeVar("T")
R = TypeVar("R")

# The address of a cluster that lives as long as this process, on the cores of this machine.
_THIS_MACHINE = "local"
# More tasks than this are not submitted at once.
_MAX_PENDING = 4096
# A cluster that grows with its tasks may have no node yet.
_MIN_SLOTS = 8
_POLL_S = 1.0
# Without a result for so long, it is said if no node has what a task needs.
_STALLED_POLLS = 15
_CONNECT_S = 5.0
_CONNECT_TRIES = 3
# How long the end of a step waits for the workers of its tasks to exit.
_CANCEL_S = 10.0
_MIB = 2**20


class RayRunner:
    """Runs tasks on the workers of a Ray cluster.

    Args:
        address: of the cluster, as `ray.init` takes it.
        settings: what a task may use, and how often it is run again.
        log: receives progress, and what the tasks wait for.
    """

    def __init__(self, address: str, settings: ComputeSettings, log: Log = silent) -> None:
        self._address, self._settings, self._log = address, settings, log
        self._pending: list[dict[Any, int]] = []

    @classmethod
    def from_environment(cls, settings: ComputeSettings, log: Log = silent) -> Self:
        """The runner of the cluster that IMGSIM_RAY_ADDRESS names.

        Raises:
            SettingsError: Ray is not installed, or the variable is not set.
        """
        problem = settings.problem()
        if problem is not None:
            raise SettingsError(f"compute: {problem}")
        return cls(os.environ[RAY_ADDRESS], settings, log)

    @property
    def slots(self) -> int:
        """How many tasks the nodes of the cluster run at once, and at least a few."""
        cores = self._connected().cluster_resources().get("CPU", 0)
        return max(int(cores) // self._settings.cpus_per_task, _MIN_SLOTS)

    def map(self, function: Callable[[T], R], tasks: Sequence[T], kind: TaskKind) -> Iterator[R]:
        """The results of the tasks, in their order.

        Raises:
            ComputeError: The cluster cannot be reached, or a task was lost too often. An error of
                a task is raised as it was.
        """
        if kind.uses_gpu:
            with use_device(None) as device:
                device.used.add("ray")
        ray = self._connected()
        resources = self._resources(kind)
        remote = ray.remote(run_task).options(
            **resources, max_retries=self._settings.retries, name=kind.label
        )
        # In a list, so that a worker fetches it once, and not again for each task.
        key, shared = uuid.uuid4().hex, [ray.put(function)]
        pending: dict[Any, int] = {}
        self._pending.append(pending)
        finished: dict[int, R] = {}
        submitted = polls = 0
        try:
            with Progress(kind.label, len(tasks), self._log, unit=kind.unit) as progress:
                for number in range(len(tasks)):
                    while number not in finished:
                        while submitted < len(tasks) and len(pending) < _MAX_PENDING:
                            reference = remote.remote(
                                key,
                                shared,
                                tasks[submitted],
                                __version__,
                                self._settings.device,
                                self._settings.memory_budget,
                            )
                            pending[reference] = submitted
                            submitted += 1
                        ready, _ = ray.wait(list(pending), num_returns=1, timeout=_POLL_S)
                        for reference in ready:
                            done = pending.pop(reference)
                            finished[done] = self._result(ray, reference, kind)
                            progress.advance()
                        polls = 0 if ready else polls + 1
                        if polls == _STALLED_POLLS:
                            self._say_what_is_missing(ray, resources, kind)
                    yield finished.pop(number)
        finally:
            self._cancel(pending)
            self._pending.remove(pending)

    def tell(self, message: str) -> None:
        """Send a message to the log."""
        self._log(message)

    def close(self) -> None:
        """Stop the tasks that still run."""
        for pending in self._pending:
            self._cancel(pending)

    def _connected(self) -> Any:
        """Ray, connected to the cluster; a process has one connection, which others may use too."""
        with _signal_handlers_kept():
            import ray

            if ray.is_initialized():
                return ray
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
            if self._address == _THIS_MACHINE:
                # Ray would report its use to its makers.
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                options["include_dashboard"] = False
            try:
                _require_listener(self._address)
                _initialize(ray, self._address, options)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise ComputeError(
                    f"compute: ray: no Ray cluster can be reached at {self._address!r} "
                    f"({RAY_ADDRESS}): {one_line(error)}; start one with 'ray start --head', or "
                    f"set the variable to {ADDRESSES}; set RAY_AUTH_MODE=token if the cluster has "
                    "a token"
                ) from error
        return ray

    def _resources(self, kind: TaskKind) -> dict[str, float]:
        settings = self._settings
        declared = settings.memory_per_task_mib
        return {
            "num_cpus": settings.cpus_per_task,
            "num_gpus": settings.gpus_per_task if kind.uses_gpu else 0,
            "memory": kind.memory if declared is None else declared * _MIB,
        }

    def _result(self, ray: Any, reference: Any, kind: TaskKind) -> Any:
        errors = ray.exceptions
        try:
            return ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, Exception) and not isinstance(error.cause, errors.RayError):
                raise error.cause from error
            raise
        except errors.RayError as error:
            attempts = self._settings.retries + 1
            raise ComputeError(
                f"compute: ray: {kind.label}: a task was lost {attempts} times with its worker or "
                f"node: {one_line(error)}; if memory ran out, raise memory_per_task_mib"
            ) from error

    def _say_what_is_missing(
        self, ray: Any, resources: Mapping[str, float], kind: TaskKind
    ) -> None:
        needed = {
            "CPU": resources["num_cpus"],
            "GPU": resources["num_gpus"],
            "memory": resources["memory"],
        }
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(all(node.get(name, 0) >= need for name, need in needed.items()) for node in nodes):
            return
        self._log(
            f"{kind.label}: waiting for a node with {needed['CPU']:g} CPUs, {needed['GPU']:g} GPUs "
            f"and {needed['memory'] / _MIB:.0f} MiB, of which the cluster has none; add one, or "
            "ask for less under 'compute'"
        )

    def _cancel(self, pending: dict[Any, int]) -> None:
        """Stop tasks, and wait until their workers have exited."""
        if not pending:
            return
        import ray

        references = list(pending)
        pending.clear()
        with suppress(ray.exceptions.RayError):
            # Ray may abort this process where a task is canceled that has just ended.
            _, running = ray.wait(references, num_returns=len(references), timeout=0)
            for reference in running:
                # A task in a matrix product would not see a gentler request.
                ray.cancel(reference, force=True)
            if running:
                ray.wait(running, num_returns=len(running), timeout=_CANCEL_S)


def _require_listener(address: str) -> None:
    """Raise OSError where nothing listens at host:port, which Ray would try for minutes."""
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


def _initialize(ray: Any, address: str, options: Mapping[str, Any]) -> None:
    """Connect; a busy head node may fail to start the server that it gives to each client."""
    for tries_left in reversed(range(_CONNECT_TRIES)):
        try:
            ray.init(address, **options)
            return
        except ConnectionAbortedError:
            if not tries_left:
                raise


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray would replace; Dagster and others stop runs by it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
