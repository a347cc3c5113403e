"""Limits how many requests are sent to one host at once."""

from __future__ import annotations

import asyncio
from collections import deque


class HostSemaphore:
    """A FIFO semaphore that costs next to nothing while a slot is free, the common case.

    Use it within one event loop.
    """

    __slots__ = ("_free", "_waiters")

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiters: deque[asyncio.Future[None]] = deque()

    def try_acquire(self) -> bool:
        """Take a slot if one is free and no request waits for it."""
        if self._free <= 0 or self._waiters:
            return False
        self._free -= 1
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
        """Pass the slot to the request that has waited longest, or free it."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1
