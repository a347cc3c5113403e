"""Tasks that run one after the other in this process, each on all of its cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from imgsim_assets.compute.runner import TaskKind
from imgsim_assets.progress import Log, Progress, silent

T = TypeVar("T")
R = TypeVar("R")


class LocalRunner:
    """Runs tasks in this process.

    Args:
        log: receives the progress of several long tasks.
    """

    slots = 1

    def __init__(self, log: Log = silent) -> None:
        self._log = log

    def map(self, function: Callable[[T], R], tasks: Sequence[T], kind: TaskKind) -> Iterator[R]:
        """The results of the tasks, in their order; each is run when its result is asked for."""
        return self.logged(map(function, tasks), len(tasks), kind)

    def logged(self, results: Iterable[R], total: int, kind: TaskKind) -> Iterator[R]:
        """The same results, of which the log receives the progress as they are computed."""
        with Progress(kind.label, total, self._log, unit=kind.unit) as progress:
            for result in results:
                progress.advance()
                yield result

    def tell(self, message: str) -> None:
        """Send a message to the log."""
        self._log(message)

    def close(self) -> None:
        """Nothing runs outside of `map`."""
