"""A circuit breaker for each host: one that keeps failing is left alone, the others go on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """What may be asked of a host: everything, nothing or one probe, nothing in this run."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"
    GIVEN_UP = "given up"


@dataclass(slots=True)
class Breaker:
    """Counts the failures in a row of one host.

    `threshold` failures open it. Whoever drives it then pauses, sends one probe (`probe`), and
    by its outcome the breaker closes or gives the host up for the rest of the run.
    """

    threshold: int
    state: State = State.CLOSED
    failures: int = 0
    reason: str = ""
    retry_after: float | None = None

    def succeeded(self) -> bool:
        """Note an answer; whether that has closed the breaker."""
        was_open = self.state in (State.OPEN, State.PROBING)
        if self.state is not State.GIVEN_UP:
            self.state = State.CLOSED
        self.failures = 0
        return was_open

    def failed(self, reason: str) -> bool:
        """Note a failure; whether that has changed the state."""
        self.failures += 1
        if self.state is State.PROBING:
            self.give_up(f"{self.failures} failures in a row, the last: {reason}")
            return True
        if self.state is State.CLOSED and self.failures >= self.threshold:
            self.state = State.OPEN
            self.reason = reason
            return True
        return False

    def probe(self) -> None:
        """Note that an item is on its way; while the breaker is open, it is the probe."""
        if self.state is State.OPEN:
            self.state = State.PROBING

    def give_up(self, reason: str, retry_after: float | None = None) -> None:
        """Ask nothing more of the host in this run."""
        self.state = State.GIVEN_UP
        self.reason = reason
        self.retry_after = retry_after
