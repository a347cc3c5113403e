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

    def failed(self, reason: str, *, is_probe: bool = False) -> bool:
        """Note a failure; whether that has changed the state.

        What was on its way when the breaker opened says nothing about how the host is since.
        """
        self.failures += 1
        if self.state is State.PROBING and is_probe:
            self.give_up(f"{self.failures} failures in a row, the last: {reason}")
            return True
        if self.state is State.CLOSED and self.failures >= self.threshold:
            self.state = State.OPEN
            self.reason = reason
            return True
        return False

    def probe(self) -> bool:
        """Note that an item is on its way; whether it is the probe, while the breaker is open."""
        is_probe = self.state is State.OPEN
        if is_probe:
            self.state = State.PROBING
        return is_probe

    def give_up(self, reason: str, retry_after: float | None = None) -> None:
        """Ask nothing more of the host in this run."""
        self.state = State.GIVEN_UP
        self.reason = reason
        self.retry_after = retry_after
