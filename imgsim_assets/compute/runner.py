"""What runs tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class TaskKind:
    """What the tasks of one call have in common.

    Attributes:
        label: what they do, in lines of progress.
        unit: plural noun for the tasks.
        memory: bytes that a task is estimated to need.
        uses_gpu: whether they compute on a GPU where they have one.
    """

    label: str
    unit: str = "tasks"
    memory: int = 0
    uses_gpu: bool = False


class TaskRunner(Protocol):
    """Runs tasks."""

    @property
    def slots(self) -> int:
        """How many tasks run at once."""

    def map(self, function: Callable[[T], R], tasks: Sequence[T], kind: TaskKind) -> Iterator[R]:
        """The results of the tasks, in their order."""

    def tell(self, message: str) -> None:
        """Send a message to the log of the step."""

    def close(self) -> None:
        """Stop the tasks that still run."""
