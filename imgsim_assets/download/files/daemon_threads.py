"""Threads for reads that may never return, as of a mount or object store that does not answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class DaemonThreadPool:
    """Calls functions off the event loop, on at most `max_threads` threads that are not joined.

    asyncio's default executor also resolves host names and commits, and is joined when the loop
    closes: calls that never return would block both.
    """

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Return what the function returns; cancellation ends the wait, not the call."""
        future: Future[_T] = Future()
        self._calls.put((future, function, arguments))
        if not self._idle.acquire(blocking=False) and self._threads < self._max_threads:
            self._threads += 1
            threading.Thread(target=self._work, name="reader", daemon=True).start()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let each thread end when its current call returns."""
        for _ in range(self._threads):
            self._calls.put(None)
        self._threads = 0

    def _work(self) -> None:
        while _make_call(self._calls.get()):
            self._idle.release()


_Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


def _make_call(call: _Call | None) -> bool:
    """Make a call; its variables end with this function, so that an idle thread holds no image."""
    if call is None:
        return False
    future, function, arguments = call
    if future.set_running_or_notify_cancel():
        try:
            result = function(*arguments)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
    return True
