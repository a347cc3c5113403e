"""Threads for reads that may never return, of a mount or an object store that is silent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")


class DaemonThreadPool:
    """Calls functions off the event loop, on at most `most` threads that nobody waits for.

    asyncio's own threads also resolve names and commit, and are joined when the loop closes:
    calls that never return would stop all of that.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """What the function returns or raises; the call goes on when whoever asked is cancelled."""
        future: Future[_T] = Future()
        self._calls.put((future, function, arguments))
        if not self._idle.acquire(blocking=False) and self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._work, name="reader", daemon=True).start()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let the threads end, each when its call returns."""
        for _ in range(self._threads):
            self._calls.put(None)
        self._threads = 0

    def _work(self) -> None:
        while _done(self._calls.get()):
            self._idle.release()


_Call = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


def _done(call: _Call | None) -> bool:
    """Make a call; a function of its own, so that an idle thread holds no image."""
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
