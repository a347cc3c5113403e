"""Waiting work by host, so that a slow host keeps only its own items waiting."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class HostQueues(Generic[T]):
    """Hands out items in turn over the hosts, at most `per_host` at a time from each."""

    def __init__(self, items: Iterable[T], host: Callable[[T], str], per_host: int) -> None:
        self._host = host
        self._per_host = per_host
        self._waiting: dict[str, deque[T]] = defaultdict(deque)
        for item in items:
            self._waiting[host(item)].append(item)
        self._active = dict.fromkeys(self._waiting, 0)
        # Hosts with something waiting and room for it, in turn.
        self._ready: deque[str] = deque(self._waiting)
        self._changed = asyncio.Event()

    async def take(self) -> T | None:
        """The next item, as soon as its host has room; None when no item is left."""
        while self._waiting:
            if self._ready:
                return self._take_from(self._ready.popleft())
            self._changed.clear()
            await self._changed.wait()
        return None

    def _take_from(self, host: str) -> T:
        queue = self._waiting[host]
        item = queue.popleft()
        self._active[host] += 1
        if not queue:
            del self._waiting[host]
            self._changed.set()
        elif self._active[host] < self._per_host:
            self._ready.append(host)
        return item

    def done(self, item: T) -> None:
        """Give an item's place at its host free."""
        host = self._host(item)
        was_full = self._active[host] == self._per_host
        self._active[host] -= 1
        if was_full and host in self._waiting:
            self._ready.append(host)
            self._changed.set()
