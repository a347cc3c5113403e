"""Waiting items by host, so that a slow host delays only its own items."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field


class _NumberQueue:
    """A FIFO of item numbers: 4 bytes each, where objects in a deque take 40."""

    __slots__ = ("_next", "_numbers")

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._numbers = array("I", numbers)
        self._next = 0

    def __len__(self) -> int:
        return len(self._numbers) - self._next

    def append(self, number: int) -> None:
        self._numbers.append(number)

    def pop(self) -> int:
        number = self._numbers[self._next]
        self._next += 1
        return number

    def remaining(self) -> Sequence[int]:
        return self._numbers[self._next :]


@dataclass(slots=True)
class _HostQueue:
    """The items of one host: those that are ready, and those that wait for a time.

    `is_enqueued` says whether the queue is in the list of queues that `take` serves.
    """

    host: str
    concurrency: int
    ready: _NumberQueue = field(default_factory=_NumberQueue)
    delayed: list[tuple[float, int, int]] = field(default_factory=list)
    active: int = 0
    opens_at: float = 0.0
    is_enqueued: bool = False

    @property
    def next_time(self) -> float | None:
        """When the next item may be taken; None when there is none."""
        if self.ready:
            return self.opens_at
        return max(self.opens_at, self.delayed[0][0]) if self.delayed else None

    def pop(self, now: float) -> int:
        if self.delayed and self.delayed[0][0] <= now:
            return heapq.heappop(self.delayed)[2]
        return self.ready.pop()


def _no_limit(_: str) -> int:
    return sys.maxsize


class HostQueues:
    """Hands out item numbers, in turn over the hosts, at most `per_host` of each at once.

    Between two items of a host are at least `interval` seconds. `slots` tells how many items of a
    host may be active now; call `refresh` when that changes. A requeued item waits without
    occupying a worker or a slot of its host. Use it within one event loop.
    """

    def __init__(
        self,
        items: Iterable[int],
        host: Callable[[int], str],
        per_host: int,
        *,
        interval: float = 0.0,
        slots: Callable[[str], int] = _no_limit,
    ) -> None:
        self._host = host
        self._per_host = per_host
        self._interval = interval
        self._slots = slots
        self._queues: dict[str, _HostQueue] = {}
        self._order = itertools.count()
        self._open_queues: deque[_HostQueue] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._waiting = 0
        self._active = 0
        for item in items:
            name = host(item)
            queue = self._queues.get(name)
            if queue is None:
                queue = self._queues[name] = _HostQueue(name, per_host, is_enqueued=True)
                self._open_queues.append(queue)
            queue.ready.append(item)
            self._waiting += 1

    async def take(self) -> int | None:
        """The next item, as soon as its host has a free slot; None when no item is left."""
        loop = asyncio.get_running_loop()
        while True:
            while self._open_queues:
                queue = self._open_queues.popleft()
                queue.is_enqueued = False
                if self._is_open(queue, loop.time()):
                    return self._take_from(queue, loop.time())
            if not self._waiting and not self._active:
                self._wake_waiters(len(self._waiters))
                return None
            waiter = loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def take_more(self, host: str, limit: int) -> list[int]:
        """Further items of a host that are ready, at most `limit`; each occupies a slot."""
        queue = self._queues.get(host)
        if queue is None:
            return []
        items = [queue.ready.pop() for _ in range(min(limit, len(queue.ready)))]
        queue.active += len(items)
        self._active += len(items)
        self._waiting -= len(items)
        return items

    def _take_from(self, queue: _HostQueue, now: float) -> int:
        item = queue.pop(now)
        queue.active += 1
        self._active += 1
        self._waiting -= 1
        if self._interval:
            queue.opens_at = now + self._interval
        self._enqueue(queue)
        return item

    def done(self, item: int) -> None:
        """Free the slot of a finished item at its host."""
        queue = self._queues[self._host(item)]
        queue.active -= 1
        self._active -= 1
        if queue.active or queue.next_time is not None:
            self._enqueue(queue)
        else:
            del self._queues[queue.host]  # so that a million hosts do not stay in memory
        self._wake_all_at_end()

    def requeue(self, item: int, delay: float) -> None:
        """Free the slot of an item, and hand the item out again after `delay` seconds."""
        queue = self._queues[self._host(item)]
        ready_at = asyncio.get_running_loop().time() + delay
        heapq.heappush(queue.delayed, (ready_at, next(self._order), item))
        self._waiting += 1
        self.done(item)

    def pause(self, host: str, seconds: float) -> None:
        """Hand out no items of a host for `seconds`; a longer pause stays in effect."""
        queue = self._queues.get(host)
        if queue is not None:
            until = asyncio.get_running_loop().time() + seconds
            queue.opens_at = max(queue.opens_at, until)

    def set_concurrency(self, host: str, concurrency: int | None) -> None:
        """Limit how many items of a host are active at once; None for the usual limit."""
        queue = self._queues.get(host)
        if queue is not None:
            queue.concurrency = self._per_host if concurrency is None else concurrency
            self._enqueue(queue)

    def refresh(self) -> None:
        """Hand out items of hosts that have more slots now, after an interval."""
        opens_at = asyncio.get_running_loop().time() + self._interval
        for queue in self._queues.values():
            if self._interval:
                queue.opens_at = max(queue.opens_at, opens_at)
            self._enqueue(queue)

    def drop_host(self, host: str) -> list[int]:
        """Remove and return the waiting items of a host."""
        queue = self._queues.get(host)
        if queue is None:
            return []
        dropped = [*queue.ready.remaining(), *(item for _, _, item in queue.delayed)]
        queue.ready = _NumberQueue()
        queue.delayed.clear()
        self._waiting -= len(dropped)
        return dropped

    def discard(self, is_done: Callable[[int], bool]) -> int:
        """Remove ready items that another run has done; returns how many.

        Each queue continues at a random item, so that two runs over the same items do not keep
        requesting the same ones.
        """
        count = 0
        for queue in self._queues.values():
            remaining = array("I", (item for item in queue.ready.remaining() if not is_done(item)))
            count += len(queue.ready) - len(remaining)
            first = random.randrange(len(remaining) or 1)
            queue.ready = _NumberQueue(remaining[first:] + remaining[:first])
        self._waiting -= count
        self._wake_all_at_end()
        return count

    def _is_open(self, queue: _HostQueue, now: float) -> bool:
        next_time = queue.next_time
        if next_time is None or not self._has_slot(queue):
            return False
        if next_time <= now:
            return True
        if self._queues.get(queue.host) is queue:
            asyncio.get_running_loop().call_at(next_time, self._enqueue, queue)
        return False

    def _has_slot(self, queue: _HostQueue) -> bool:
        return queue.active < queue.concurrency and queue.active < self._slots(queue.host)

    def _enqueue(self, queue: _HostQueue) -> None:
        """Add a queue that may have a ready item to the list that `take` serves."""
        if queue.is_enqueued or queue.next_time is None:
            return
        if self._has_slot(queue):
            queue.is_enqueued = True
            self._open_queues.append(queue)
            self._wake_waiters(1)

    def _wake_all_at_end(self) -> None:
        if not self._waiting and not self._active:
            self._wake_waiters(len(self._waiters))

    def _wake_waiters(self, count: int) -> None:
        while count and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1
