"""Telling how a long step is getting on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

Log = Callable[[str], None]


def silent(_: str) -> None:
    """A log that is not listened to."""


class Progress:
    """Counts what is done and says so every few seconds: done/total, rate, time left, kinds.

    Use it as a context manager. Nothing is said about steps shorter than the interval.
    """

    def __init__(
        self, label: str, total: int, log: Log, *, unit: str = "images", every: float = 5.0
    ) -> None:
        self._label = label
        self._total = total
        self._log = log
        self._unit = unit
        self._every = every
        self._started = self._said = time.monotonic()
        self.done = 0
        self.kinds: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._started = self._said = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._said != self._started:
            self._log(self._line())

    @property
    def seconds(self) -> float:
        """Since the step began."""
        return time.monotonic() - self._started

    def advance(self, count: int = 1, kind: str | None = None) -> None:
        """Count items as done, under a kind such as a status."""
        self.done += count
        if kind is not None:
            self.kinds[kind] += count
        if time.monotonic() - self._said >= self._every:
            self._said = time.monotonic()
            self._log(self._line())

    def _line(self) -> str:
        rate = self.done / max(self.seconds, 1e-9)
        line = f"{self._label}: {self.done}/{self._total} {self._unit}, {rate:.1f}/s"
        if 0 < self.done < self._total:
            line += f", {(self._total - self.done) / rate:.0f} s left"
        if self.kinds:
            line += " (" + ", ".join(f"{kind} {n}" for kind, n in sorted(self.kinds.items())) + ")"
        return line
