"""Deadlines of many requests, checked together by one timer instead of a timer for each."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Self

# A deadline takes effect at most this much too late.
_CHECK_SECONDS = 0.05
# A check that is later than this means that this process was suspended, not that a server was.
_SUSPENDED_SECONDS = 1.0


class Deadlines:
    """The deadlines of the tasks of one event loop, at most one for each task."""

    def __init__(self) -> None:
        self._running: dict[asyncio.Task[Any], Deadline] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next_check = 0.0

    def start(self, seconds: float) -> Deadline:
        """A context for the current task that raises TimeoutError after `seconds`."""
        return Deadline(self, seconds)

    def current(self) -> Deadline | None:
        """The deadline of the current task."""
        task = asyncio.current_task()
        return self._running.get(task) if task is not None else None

    def idle_count(self, seconds: float) -> int:
        """How many requests have had no activity for `seconds`."""
        since = asyncio.get_running_loop().time() - seconds
        return sum(deadline.last_activity <= since for deadline in self._running.values())

    def watch(self, task: asyncio.Task[Any], deadline: Deadline) -> None:
        """Check a deadline from now on."""
        self._running[task] = deadline
        if self._timer is None:
            self._schedule_check()

    def unwatch(self, task: asyncio.Task[Any]) -> None:
        """Stop checking the deadline of a task."""
        self._running.pop(task, None)

    def _schedule_check(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_check = loop.time() + _CHECK_SECONDS
        self._timer = loop.call_at(self._next_check, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._running:
            now = asyncio.get_running_loop().time()
            self._extend_after_suspension(now - self._next_check)
            expired = [
                (task, deadline)
                for task, deadline in self._running.items()
                if deadline.total_deadline <= now or deadline.idle_deadline <= now
            ]
            for task, deadline in expired:
                del self._running[task]
                deadline.expire()
            self._schedule_check()

    def _extend_after_suspension(self, seconds: float) -> None:
        """Bytes that arrived while the process was suspended may not have been read yet."""
        if seconds > _SUSPENDED_SECONDS:
            for deadline in self._running.values():
                deadline.idle_deadline += seconds


class Deadline:
    """`asyncio.timeout` at a fraction of its cost, with a second limit for inactivity.

    All times are those of `time.monotonic`, which is the event loop's clock. `total_deadline`
    and `idle_deadline` may be moved; the second is infinite until `touch` is called.
    `last_activity` is the time of the last `touch`, or of the start.
    """

    __slots__ = (
        "_all",
        "_cancelling",
        "_has_expired",
        "_task",
        "idle_deadline",
        "last_activity",
        "total_deadline",
    )

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a running task")
        self.last_activity = time.monotonic()
        self.total_deadline = self.last_activity + seconds
        self.idle_deadline = math.inf
        self._all = deadlines
        self._task = task
        self._cancelling = task.cancelling()
        self._has_expired = False

    def touch(self, idle_seconds: float) -> None:
        """Record activity; the request expires after `idle_seconds` without further activity."""
        self.last_activity = time.monotonic()
        self.idle_deadline = self.last_activity + idle_seconds

    def __enter__(self) -> Self:
        self._all.watch(self._task, self)
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._all.unwatch(self._task)
        if self._has_expired:
            is_ours = self._task.uncancel() <= self._cancelling
            if is_ours and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def expire(self) -> None:
        """Cancel what the task waits for."""
        self._has_expired = True
        self._task.cancel()
