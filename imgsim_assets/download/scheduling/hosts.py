"""How each host performed in a run: its circuit breaker, and counts for the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from imgsim_assets.download.scheduling.circuit_breaker import CircuitBreaker
from imgsim_assets.download.scheduling.page_streaks import PageStreaks

# Hosts beyond these are not counted, to bound the memory.
_MAX_HOSTS = 10_000


@dataclass(slots=True)
class HostStats:
    """Images and requests of one host; `seconds` is the sum over all requests."""

    host: str
    images: int = 0
    requests: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Images that failed."""
        return self.failures.total()

    @property
    def mean_seconds(self) -> float:
        """Mean duration of a request."""
        return self.seconds / max(self.requests, 1)


class Hosts:
    """Circuit breakers, streaks and statistics of all hosts of a run."""

    def __init__(self, threshold: int) -> None:
        self.page_streaks = PageStreaks()
        self._threshold = threshold
        self._breakers: dict[str, CircuitBreaker] = {}
        self._stats: dict[str, HostStats] = {}

    def breaker(self, host: str) -> CircuitBreaker:
        """The circuit breaker of a host."""
        breaker = self._breakers.get(host)
        if breaker is None:
            breaker = self._breakers[host] = CircuitBreaker(self._threshold)
        return breaker

    def skipped(self) -> list[str]:
        """The hosts that were skipped for the rest of the run, sorted."""
        return sorted(host for host, breaker in self._breakers.items() if breaker.is_skipped)

    def count_request(self, host: str, seconds: float) -> None:
        """Count a request and its duration."""
        stats = self._stats_of(host)
        if stats is not None:
            stats.requests += 1
            stats.seconds += seconds

    def count_image(self, host: str, failure: str | None) -> None:
        """Count a finished image, with the status of its failure."""
        stats = self._stats_of(host)
        if stats is not None:
            stats.images += 1
            if failure is not None:
                stats.failures[failure] += 1

    def _stats_of(self, host: str) -> HostStats | None:
        stats = self._stats.get(host)
        if stats is None and len(self._stats) < _MAX_HOSTS:
            stats = self._stats[host] = HostStats(host)
        return stats

    def slowest_and_failing(self, count: int = 10) -> list[HostStats]:
        """The `count` hosts with the most failures, then the `count` slowest, each host once."""
        stats = self._stats.values()
        failing = sorted(
            (one for one in stats if one.failed), key=lambda one: (-one.failed, one.host)
        )
        slowest = sorted(stats, key=lambda one: (-one.mean_seconds, one.host))
        return list({one.host: one for one in [*failing[:count], *slowest[:count]]}.values())
