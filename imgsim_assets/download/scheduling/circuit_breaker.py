"""A circuit breaker for each host: one that keeps failing is skipped, and the others go on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from imgsim_assets.text import counted


class BreakerState(Enum):
    """What may be requested: everything, nothing yet, one probe, nothing more in this run."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"
    SKIPPED = "skipped"


@dataclass(slots=True)
class CircuitBreaker:
    """Counts the consecutive failures of one host.

    `threshold` failures open it. Its caller then pauses and sends one probe (`start_request`).
    The outcome of the probe closes the breaker, or skips the host for the rest of the run.
    """

    threshold: int
    state: BreakerState = BreakerState.CLOSED
    failures: int = 0
    reason: str = ""
    retry_after: float | None = None

    @property
    def is_skipped(self) -> bool:
        """Whether nothing more is requested of the host in this run."""
        return self.state is BreakerState.SKIPPED

    def start_request(self) -> bool:
        """Record that a request starts; returns whether it is the probe of an open breaker."""
        is_probe = self.state is BreakerState.OPEN
        if is_probe:
            self.state = BreakerState.HALF_OPEN
        return is_probe

    def record_success(self) -> bool:
        """Record an answer; returns whether it closed the breaker."""
        was_open = self.state in (BreakerState.OPEN, BreakerState.HALF_OPEN)
        if self.state is not BreakerState.SKIPPED:
            self.state = BreakerState.CLOSED
        self.failures = 0
        return was_open

    def record_failure(self, reason: str, *, is_probe: bool = False) -> bool:
        """Record a failure; returns whether it changed the state.

        A request that started before the breaker opened does not count as its probe.
        """
        self.failures += 1
        if self.state is BreakerState.HALF_OPEN and is_probe:
            self.skip(f"{counted(self.failures, 'failure')} in a row, the last: {reason}")
            return True
        if self.state is BreakerState.CLOSED and self.failures >= self.threshold:
            self.state = BreakerState.OPEN
            self.reason = reason
            return True
        return False

    def skip(self, reason: str, retry_after: float | None = None) -> None:
        """Request nothing more of the host in this run."""
        self.state = BreakerState.SKIPPED
        self.reason = reason
        self.retry_after = retry_after
