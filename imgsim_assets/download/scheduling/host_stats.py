"""How each host did in a run, for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

# Hosts that are counted one by one; what comes beyond is not worth the memory.
_MOST_HOSTS = 10_000


@dataclass(slots=True)
class HostStats:
    """Items of one host: how many, how many failed and with what, seconds of all requests."""

    host: str
    items: int = 0
    requests: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Items without an image."""
        return self.failures.total()

    @property
    def mean_seconds(self) -> float:
        """Of one request."""
        return self.seconds / max(self.requests, 1)


class Tallies:
    """The tallies of all hosts of a run."""

    def __init__(self) -> None:
        self._tallies: dict[str, HostStats] = {}

    def requested(self, host: str, seconds: float) -> None:
        """Count a request."""
        tally = self._of(host)
        if tally is not None:
            tally.requests += 1
            tally.seconds += seconds

    def finished(self, host: str, failure: str | None) -> None:
        """Count an item, with the status of its failure."""
        tally = self._of(host)
        if tally is not None:
            tally.items += 1
            if failure is not None:
                tally.failures[failure] += 1

    def _of(self, host: str) -> HostStats | None:
        tally = self._tallies.get(host)
        if tally is None and len(self._tallies) < _MOST_HOSTS:
            tally = self._tallies[host] = HostStats(host)
        return tally

    def worst(self, count: int = 10) -> list[HostStats]:
        """The hosts with the most failures, and those that took longest for one request."""
        return _distinct(
            [
                *sorted(
                    (tally for tally in self._tallies.values() if tally.failed),
                    key=lambda tally: (-tally.failed, tally.host),
                )[:count],
                *sorted(
                    self._tallies.values(), key=lambda tally: (-tally.mean_seconds, tally.host)
                )[:count],
            ]
        )


def _distinct(tallies: Iterable[HostStats]) -> list[HostStats]:
    return list({tally.host: tally for tally in tallies}.values())
