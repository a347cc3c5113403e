"""A runner that pickles tasks and results, as a cluster does, and runs them in this process."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from imgsim_assets.compute import tasks
from imgsim_assets.compute.runner import TaskKind

T = TypeVar("T")
R = TypeVar("R")


class PickledTasks:
    """Runs every task on objects of its own.

    Attributes:
        labels: what the tasks did.
        sizes: bytes of the pickled functions.
    """

    slots = 2

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.sizes: list[int] = []

    def map(self, function: Callable[[T], R], tasks: Sequence[T], kind: TaskKind) -> Iterator[R]:
        pickled = pickle.dumps(function)
        self.sizes.append(len(pickled))
        for task in tasks:
            self.labels.append(kind.label)
            sent_function, sent_task = pickle.loads(pickled), pickle.loads(pickle.dumps(task))
            result: R = pickle.loads(pickle.dumps(sent_function(sent_task)))
            yield result

    def tell(self, message: str) -> None:
        pass

    def close(self) -> None:
        pass


@contextmanager
def pickled_tasks() -> Iterator[PickledTasks]:
    """Within the context, tasks are pickled."""
    runner = PickledTasks()
    token = tasks._runner.set(runner)
    try:
        yield runner
    finally:
        tasks._runner.reset(token)
