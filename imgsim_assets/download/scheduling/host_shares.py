"""How many requests this run may send to each host: its share of what all runs may together."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from imgsim_assets.download.http.host_semaphore import HostSemaphore
from imgsim_assets.download.scheduling.active_runs import ActiveRuns
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.files import Files

_POLL_SECONDS = 1.0


class HostShares:
    """The share of one run in the limits of hosts, which all runs over one store keep together.

    A host that several runs use is divided: each may send a part of `max_per_host` requests at
    once, the older runs the larger part. A host whose requests are paced, by a rate or by its
    robots.txt, belongs to the oldest of these runs until that has finished with it.

    Without a store, or before `join`, the run has all hosts for itself. Use it within one event
    loop.

    Args:
        max_per_host: Concurrent requests to one host, of all runs.
        is_paced: Whether the requests to every host are paced.
        files: The root of the store.
        log: Takes a message when other runs use the same hosts.
    """

    def __init__(
        self,
        max_per_host: int,
        *,
        is_paced: bool = False,
        files: Files | None = None,
        log: Log = silent,
    ) -> None:
        self._max_per_host = max_per_host
        self._is_paced = is_paced
        self.files = files
        self._log = log
        self._semaphores: dict[str, HostSemaphore] = {}
        # By host: seconds between two requests, and when the next one may start.
        self._delays: dict[str, float] = {}
        self._next_times: dict[str, float] = {}
        self._runs: ActiveRuns | None = None
        # The slots of this run at the hosts that other runs use, too.
        self._shared: dict[str, int] = {}
        self._on_change: Callable[[], None] | None = None

    def semaphore(self, host: str) -> HostSemaphore:
        """The semaphore of a host (`host:port`)."""
        found = self._semaphores.get(host)
        if found is None:
            found = self._semaphores[host] = HostSemaphore(lambda: self.slots(host))
        return found

    def slots(self, host: str) -> int:
        """How many requests this run may have open at a host now; files have no host."""
        if not host:
            return sys.maxsize
        limit = 1 if host in self._delays else self._max_per_host
        runs = self._runs
        if runs is None:
            return limit
        if not runs.is_fresh:
            return 0
        if host in self._shared:
            return self._shared[host]
        if host not in runs.hosts and runs.others:
            # The target of a redirect: it is not known which runs use it.
            return 0 if runs.awaited else max(1, limit // (len(runs.others) + 1))
        return limit

    def set_delay(self, host: str, seconds: float) -> None:
        """Send one request at a time to a host, and none for some seconds after another."""
        if host not in self._delays:
            self._delays[host] = seconds
            self._postpone(host)
            self._divide()

    async def wait_for_delay(self, host: str) -> None:
        """Wait until the delay since the last request has passed; the caller holds the slot."""
        if host in self._delays:
            await asyncio.sleep(self._next_times[host] - time.monotonic())
            self._next_times[host] = time.monotonic() + self._delays[host]

    async def join(self, hosts: Iterable[str], on_change: Callable[[], None]) -> None:
        """Share the limits of these hosts with other runs until `leave`.

        Args:
            hosts: Of the images of this run.
            on_change: Called when the slots of a host have changed.
        """
        hosts = {host for host in hosts if host}
        if self.files is None or not hosts:
            return
        runs = ActiveRuns(self.files, hosts, self._max_per_host, is_paced=self._is_paced)
        await asyncio.to_thread(runs.join)
        self._runs, self._on_change = runs, on_change
        self._divide()
        runs.start()
        self._wake()
        if self._shared:
            names = ", ".join(sorted(self._shared)[:3])
            self._log(f"other runs fetch from {names} as well; the limits hold for all together")

    async def leave(self) -> None:
        """Give the shares back to the other runs."""
        runs, self._runs, self._on_change = self._runs, None, None
        self._shared = {}
        if runs is not None:
            # Without its files the run is gone in any case, if a little later.
            with contextlib.suppress(Exception):
                await asyncio.to_thread(runs.leave)

    async def watch(self) -> None:
        """Adapt the shares to the runs that come and go, until this task is canceled."""
        runs = self._runs
        while runs is not None and runs is self._runs:
            was_fresh = runs.is_fresh
            # A run that others took for gone is not fresh after this, until it renews its file.
            if await asyncio.to_thread(runs.poll):
                self._divide()
            if runs.is_renewal_due:
                await asyncio.to_thread(runs.renew, acknowledge=self._is_within_shares())
            if not was_fresh:
                self._wake()
            await asyncio.sleep(_POLL_SECONDS)

    def _is_within_shares(self) -> bool:
        """Whether no more requests are open than the other runs may rely on."""
        return all(each.active <= self.slots(host) for host, each in self._semaphores.items())

    def _divide(self) -> None:
        """Compute the slots of this run at the hosts that others use, and let requests start."""
        runs = self._runs
        if runs is None:
            return
        users: dict[str, list[str]] = {}
        for run, other in runs.others.items():
            for host in runs.hosts & other.hosts:
                users.setdefault(host, []).append(run)
        before, self._shared = self._shared, {}
        for host, others in users.items():
            self._shared[host] = self._share_of(host, others, runs)
        for host in before.keys() | self._shared.keys():
            if not before.get(host) and self.slots(host):
                self._postpone(host)
        self._wake()

    def _share_of(self, host: str, others: Sequence[str], runs: ActiveRuns) -> int:
        if not runs.awaited.isdisjoint(others):
            return 0
        limit = min(self._max_per_host, *(runs.others[run].max_per_host for run in others))
        if host in self._delays:
            return int(runs.id < min(others))
        if self._is_paced or any(runs.others[run].is_paced for run in others):
            return limit if runs.id < min(others) else 0
        return share(sum(run < runs.id for run in others), len(others) + 1, limit)

    def _postpone(self, host: str) -> None:
        """Let a delay pass since the last request of another run."""
        if host in self._delays:
            self._next_times[host] = time.monotonic() + self._delays[host]

    def _wake(self) -> None:
        for semaphore in self._semaphores.values():
            semaphore.wake()
        if self._on_change is not None:
            self._on_change()


def share(rank: int, runs: int, limit: int) -> int:
    """How many of `limit` slots the run of a rank has; all shares together are `limit`.

    If a run leaves, no share of another becomes smaller. So the runs keep the limit together even
    while not all of them have noticed.
    """
    return limit // runs + (rank < limit % runs)
