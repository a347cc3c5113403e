"""Telling how a long step is getting on."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

Log = Callable[[str], None]

_REDRAW_SECONDS = 0.2
_BAR_CELLS = 24


def silent(_: str) -> None:
    """A log that is not listened to."""


class Progress:
    """Counts what is done and says so every few seconds: done/total, rate, time left, kinds.

    Use it as a context manager. Nothing is said about steps shorter than the interval. On a
    terminal given as `tty` the same line is drawn over and over, behind a bar.
    """

    def __init__(
        self,
        label: str,
        total: int,
        log: Log,
        *,
        unit: str = "images",
        every: float = 5.0,
        tty: TextIO | None = None,
    ) -> None:
        self._label = label
        self._total = total
        self._log = log
        self._unit = unit
        self._every = every
        self._tty = tty if tty is not None and tty.isatty() else None
        self._drawn = 0.0
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
        if self._tty is not None:
            self._draw(self._tty)
            self._tty.write("\n")
            self._tty.flush()
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
        now = time.monotonic()
        if self._tty is not None and now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            self._draw(self._tty)
        if now - self._said >= self._every:
            self._said = now
            self._log(self._line())

    def _draw(self, tty: TextIO) -> None:
        filled = _BAR_CELLS * self.done // max(self._total, 1)
        line = f"[{'#' * filled}{'.' * (_BAR_CELLS - filled)}] {self._line()}"
        width = shutil.get_terminal_size().columns - 1
        tty.write("\r" + line[:width].ljust(width))
        tty.flush()

    def _line(self) -> str:
        rate = self.done / max(self.seconds, 1e-9)
        line = f"{self._label}: {self.done}/{self._total} {self._unit}, {rate:.1f}/s"
        if 0 < self.done < self._total:
            line += f", {(self._total - self.done) / rate:.0f} s left"
        if self.kinds:
            line += " (" + ", ".join(f"{kind} {n}" for kind, n in sorted(self.kinds.items())) + ")"
        return line
