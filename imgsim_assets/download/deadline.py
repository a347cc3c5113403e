"""Deadlines of many requests at once, looked at together instead of by a timer for each."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

# How often they are looked at, and so how late one may take effect.
_LOOK_SECONDS = 0.05


class Deadlines:
    """The deadlines of the tasks of one event loop."""

    def __init__(self) -> None:
        self._running: dict[Deadline, None] = {}
        self._next_look: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> Deadline:
        """A context for the current task that ends in TimeoutError once the time is up."""
        return Deadline(self, seconds)

    def begin(self, deadline: Deadline) -> None:
        """Watch a deadline."""
        self._running[deadline] = None
        if self._next_look is None:
            self._look_later()

    def end(self, deadline: Deadline) -> None:
        """Watch it no more."""
        self._running.pop(deadline, None)

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_look = loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._next_look = None
        if self._running:
            now = asyncio.get_running_loop().time()
            for deadline in [one for one in self._running if one.at <= now]:
                del self._running[deadline]
                deadline.pass_()
            self._look_later()


class Deadline:
    """What `asyncio.timeout` is, for a fraction of its cost.

    `at` is in the loop's time and may be moved.
    """

    __slots__ = ("_all", "_cancelling", "_has_passed", "_task", "at")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is that of a task")
        self.at = asyncio.get_running_loop().time() + seconds
        self._all = deadlines
        self._task = task
        self._cancelling = task.cancelling()
        self._has_passed = False

    def __enter__(self) -> Self:
        self._all.begin(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._all.end(self)
        if self._has_passed:
            is_ours = self._task.uncancel() <= self._cancelling
            if is_ours and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def pass_(self) -> None:
        """Cancel what the task waits for."""
        self._has_passed = True
        self._task.cancel()
