"""Tasks: pure functions of picklable arguments, whose results do not depend on where they run.

A step cuts its work into tasks, runs them by `run_tasks`, and commits what they return. Whoever
composes the step says with `use_compute` where they run; by default in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import TypeVar

from imgsim_assets.compute.device import JoinDevice, use_device
from imgsim_assets.compute.local import LocalRunner
from imgsim_assets.compute.memory import use_memory_budget
from imgsim_assets.compute.runner import TaskKind, TaskRunner
from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.progress import Log, silent

T = TypeVar("T")
R = TypeVar("R")

# Tasks of each slot, so that slots finish at about the same time.
_TASKS_PER_SLOT = 4


_runner: ContextVar[TaskRunner | None] = ContextVar("runner", default=None)


@contextmanager
def use_compute(settings: ComputeSettings, log: Log = silent) -> Iterator[JoinDevice]:
    """Within the context, run tasks where the settings say. Leaving it stops those that still run.

    Args:
        settings: as declared.
        log: receives the progress of long tasks.

    Yields:
        What says afterwards on which devices joins ran in this process.

    Raises:
        SettingsError: Ray is not installed, or the address of its cluster is not set.
    """
    with (
        closing(_open(settings, log)) as runner,
        use_memory_budget(settings.memory_budget),
        use_device(settings.device) as device,
    ):
        token = _runner.set(runner)
        try:
            yield device
        finally:
            _runner.reset(token)


def run_tasks(
    function: Callable[[T], R],
    tasks: Sequence[T],
    label: str,
    *,
    unit: str = "tasks",
    memory: int = 0,
    uses_gpu: bool = False,
) -> Iterator[R]:
    """The results of a function for some tasks, in the order of the tasks.

    Args:
        function: of a module, or a `functools.partial` of one. It is pure: a task may run twice.
        tasks: its arguments; without any, nothing is started.
        label: what the tasks do, in lines of progress.
        unit: plural noun for the tasks.
        memory: bytes that a task is estimated to need.
        uses_gpu: whether a task computes on a GPU where it has one.

    Raises:
        ComputeError: The cluster cannot be reached, or a task was lost too often.
    """
    if not tasks:
        return iter(())
    return _current().map(function, tasks, TaskKind(label, unit, memory, uses_gpu))


def runs_here() -> bool:
    """Whether tasks run one after the other in this process."""
    return isinstance(_current(), LocalRunner)


def logged(results: Iterable[R], total: int, label: str, *, unit: str = "tasks") -> Iterator[R]:
    """The same results, of which the log receives the progress if they are computed here.

    Args:
        results: are computed as they are asked for.
        total: how many there are.
        label: what is computed, in lines of progress.
        unit: plural noun for the results.
    """
    runner = _current()
    if isinstance(runner, LocalRunner):
        return runner.logged(results, total, TaskKind(label, unit))
    return iter(results)


def tell(message: str) -> None:
    """Send a message to the log of the step, if it has one."""
    _current().tell(message)


def task_ranges(count: int, *, smallest: int, largest: int) -> list[range]:
    """Ranges that together cover `count` things, one for each task.

    Args:
        count: how many things there are.
        smallest: fewer are not worth a task.
        largest: the most things of a task. Without a cluster, ranges are as large as that.
    """
    slots = _current().slots
    wanted = slots * _TASKS_PER_SLOT if slots > 1 else 1
    tasks = max(-(-count // largest), min(wanted, -(-count // smallest)))
    bounds = [count * number // max(tasks, 1) for number in range(tasks + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]


def _current() -> TaskRunner:
    return _runner.get() or LocalRunner()


def _open(settings: ComputeSettings, log: Log) -> TaskRunner:
    if settings.engine == "local":
        return LocalRunner(log)
    from imgsim_assets.compute.ray import RayRunner

    return RayRunner.from_environment(settings, log)
