"""Waiting work by host, so that a slow host keeps only its own items waiting."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field


class _Numbers:
    """Numbers that are taken from the front: 4 bytes each, where objects in a deque take 40."""

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

    def left(self) -> Sequence[int]:
        return self._numbers[self._next :]


@dataclass(slots=True)
class _Line:
    """One host's items: those that may go now, and those that wait for a moment."""

    host: str
    most: int
    now: _Numbers = field(default_factory=_Numbers)
    later: list[tuple[float, int, int]] = field(default_factory=list)
    active: int = 0
    opens_at: float = 0.0
    is_offered: bool = False

    @property
    def next_moment(self) -> float | None:
        """When the line's next item may go; None when it has none."""
        if self.now:
            return self.opens_at
        return max(self.opens_at, self.later[0][0]) if self.later else None

    def pop(self, moment: float) -> int:
        if self.later and self.later[0][0] <= moment:
            return heapq.heappop(self.later)[2]
        return self.now.pop()


class HostQueues:
    """Hands out items, by number, in turn over the hosts, at most `per_host` at a time from each.

    `interval` is the least time in seconds between two items of a host. An item that is put
    back waits without keeping a worker or a place at its host. Use it within one event loop.
    """

    def __init__(
        self,
        items: Iterable[int],
        host: Callable[[int], str],
        per_host: int,
        *,
        interval: float = 0.0,
    ) -> None:
        self._host = host
        self._per_host = per_host
        self._interval = interval
        self._lines: dict[str, _Line] = {}
        self._order = itertools.count()
        self._offered: deque[_Line] = deque()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._left = 0
        self._active = 0
        for item in items:
            name = host(item)
            line = self._lines.get(name)
            if line is None:
                line = self._lines[name] = _Line(name, per_host, is_offered=True)
                self._offered.append(line)
            line.now.append(item)
            self._left += 1

    async def take(self) -> int | None:
        """The next item, as soon as its host has room; None when no item is left."""
        loop = asyncio.get_running_loop()
        while True:
            while self._offered:
                line = self._offered.popleft()
                line.is_offered = False
                if self._is_open(line, loop.time()):
                    return self._take_from(line, loop.time())
            if not self._left and not self._active:
                self._release_takers(len(self._takers))
                return None
            taker = loop.create_future()
            self._takers.append(taker)
            await taker

    def _take_from(self, line: _Line, moment: float) -> int:
        item = line.pop(moment)
        line.active += 1
        self._active += 1
        self._left -= 1
        if self._interval:
            line.opens_at = moment + self._interval
        self._offer(line)
        return item

    def done(self, item: int) -> None:
        """Give an item's place at its host free."""
        line = self._lines[self._host(item)]
        line.active -= 1
        self._active -= 1
        if line.active or line.next_moment is not None:
            self._offer(line)
        else:
            del self._lines[line.host]  # so that a million hosts do not stay in memory
        if not self._left and not self._active:
            self._release_takers(len(self._takers))

    def put_back(self, item: int, delay: float) -> None:
        """Give an item's place free, and hand it out again when `delay` seconds have passed."""
        line = self._lines[self._host(item)]
        moment = asyncio.get_running_loop().time() + delay
        heapq.heappush(line.later, (moment, next(self._order), item))
        self._left += 1
        self.done(item)

    def pause(self, host: str, seconds: float) -> None:
        """Hand out nothing of a host for a while; a longer pause that holds already stays."""
        line = self._lines.get(host)
        if line is not None:
            until = asyncio.get_running_loop().time() + seconds
            line.opens_at = max(line.opens_at, until)

    def narrow(self, host: str, *, to_one: bool) -> None:
        """Hand out a host's items one at a time, or as many as usual again."""
        line = self._lines.get(host)
        if line is not None:
            line.most = 1 if to_one else self._per_host
            self._offer(line)

    def drop(self, host: str) -> list[int]:
        """Take all items of a host that are still waiting out of the queue."""
        line = self._lines.get(host)
        if line is None:
            return []
        dropped = [*line.now.left(), *(item for _, _, item in line.later)]
        line.now = _Numbers()
        line.later.clear()
        self._left -= len(dropped)
        return dropped

    def leave_out(self, is_needless: Callable[[int], bool]) -> int:
        """Take waiting items out that need not be handed out any more; returns how many.

        Each host goes on at another place of its line, so that two runs over the same items
        do not keep meeting.
        """
        count = 0
        for line in self._lines.values():
            kept = array("I", (item for item in line.now.left() if not is_needless(item)))
            count += len(line.now) - len(kept)
            first = random.randrange(len(kept) or 1)
            line.now = _Numbers(kept[first:] + kept[:first])
        self._left -= count
        if not self._left and not self._active:
            self._release_takers(len(self._takers))
        return count

    def _is_open(self, line: _Line, moment: float) -> bool:
        next_moment = line.next_moment
        if next_moment is None or line.active >= line.most:
            return False
        if next_moment <= moment:
            return True
        if self._lines.get(line.host) is line:
            asyncio.get_running_loop().call_at(next_moment, self._offer, line)
        return False

    def _offer(self, line: _Line) -> None:
        """Let a taker look at a line, if there may be something for it."""
        if not line.is_offered and line.next_moment is not None and line.active < line.most:
            line.is_offered = True
            self._offered.append(line)
            self._release_takers(1)

    def _release_takers(self, count: int) -> None:
        while count and self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                count -= 1
