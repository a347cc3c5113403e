"""Deadlines of many requests at once, looked at together instead of by a timer for each."""

from __future__ import annotations

import asyncio
import math
import time
from types import TracebackType
from typing import Any, Self

# How often they are looked at, and so how late one may take effect.
_LOOK_SECONDS = 0.05
# A look that is later than this means that this process stood still, and not that a server did.
_STANDSTILL_SECONDS = 1.0


class Deadlines:
    """The deadlines of the tasks of one event loop, one at a time for each."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[Any], Deadline] = {}
        self._next_look: asyncio.TimerHandle | None = None
        self._look_at = 0.0

    def within(self, seconds: float) -> Deadline:
        """A context for the current task that ends in TimeoutError once the time is up."""
        return Deadline(self, seconds)

    def current(self) -> Deadline | None:
        """The deadline of the current task."""
        task = asyncio.current_task()
        return self._running.get(task) if task is not None else None

    def quiet(self, seconds: float) -> int:
        """How many have heard nothing for so long."""
        since = asyncio.get_running_loop().time() - seconds
        return sum(one.heard_at <= since for one in self._running.values())

    def begin(self, task: asyncio.Task[Any], deadline: Deadline) -> None:
        """Watch a deadline."""
        self._running[task] = deadline
        if self._next_look is None:
            self._look_later()

    def end(self, task: asyncio.Task[Any]) -> None:
        """Watch it no more."""
        self._running.pop(task, None)

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._look_at = loop.time() + _LOOK_SECONDS
        self._next_look = loop.call_at(self._look_at, self._look)

    def _look(self) -> None:
        self._next_look = None
        if self._running:
            now = asyncio.get_running_loop().time()
            self._forgive(now - self._look_at)
            late = [
                (task, one)
                for task, one in self._running.items()
                if one.at <= now or one.silent_at <= now
            ]
            for task, deadline in late:
                del self._running[task]
                deadline.pass_()
            self._look_later()

    def _forgive(self, standstill: float) -> None:
        """What has arrived during a standstill may not have been taken note of yet."""
        if standstill > _STANDSTILL_SECONDS:
            for deadline in self._running.values():
                deadline.silent_at += standstill


class Deadline:
    """What `asyncio.timeout` is, for a fraction of its cost.

    `at` is a moment of `time.monotonic`, which is the loop's time, and may be moved. So may
    `silent_at`, from which on the other side has been silent for too long; it is never, unless
    it is set. `heard_at` is when it was last heard of, or begun with.
    """

    __slots__ = ("_all", "_cancelling", "_has_passed", "_task", "at", "heard_at", "silent_at")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is that of a task")
        self.heard_at = time.monotonic()
        self.at = self.heard_at + seconds
        self.silent_at = math.inf
        self._all = deadlines
        self._task = task
        self._cancelling = task.cancelling()
        self._has_passed = False

    def hear(self, patience: float) -> None:
        """Note that the other side was heard of; from now it may be silent for so many seconds."""
        self.heard_at = time.monotonic()
        self.silent_at = self.heard_at + patience

    def __enter__(self) -> Self:
        self._all.begin(self._task, self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._all.end(self._task)
        if self._has_passed:
            is_ours = self._task.uncancel() <= self._cancelling
            if is_ours and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def pass_(self) -> None:
        """Cancel what the task waits for."""
        self._has_passed = True
        self._task.cancel()
