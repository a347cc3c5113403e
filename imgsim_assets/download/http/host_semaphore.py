"""Limits how many requests are sent to one host at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class HostSemaphore:
    """A FIFO semaphore that costs next to nothing while a slot is free, the common case.

    Use it within one event loop.

    Args:
        slots: How many there are now. Call `wake` when there are more.
    """

    __slots__ = ("_slots", "_waiters", "active")

    def __init__(self, slots: Callable[[], int]) -> None:
        self._slots = slots
        self.active = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    def try_acquire(self) -> bool:
        """Take a slot if one is free and no request waits for it."""
        if self._waiters or self.active >= self._slots():
            return False
        self.active += 1
        return True

    async def wait(self) -> None:
        """Wait for a slot that another request releases; call it when `try_acquire` failed."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # the slot had just been passed on
                self.release()
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    def release(self) -> None:
        """Free a slot, or pass it to the request that has waited longest."""
        self.active -= 1
        self.wake()

    def wake(self) -> None:
        """Give free slots to the requests that have waited longest."""
        while self._waiters and self.active < self._slots():
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.active += 1
                waiter.set_result(None)
