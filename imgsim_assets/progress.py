"""Progress of long steps, as log lines and as a bar on a terminal."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from imgsim_assets.text import printable

Log = Callable[[str], None]

_REDRAW_INTERVAL_S = 0.2
_BAR_WIDTH = 24


def printable_log(log: Log) -> Log:
    """A log of messages that quote data of others; see `text.printable`."""
    return lambda message: log(printable(message))


def silent(_: str) -> None:
    """A log that drops every message."""


class Progress:
    """A context manager that counts processed items and logs the progress every few seconds.

    A line has done/total, the rate, the time left and the counts by kind. Steps shorter than the
    interval log nothing.

    Args:
        label: Prefix of every line.
        total: Number of items to process.
        log: Takes the lines.
        unit: Plural noun for the items.
        interval_s: Seconds between lines.
        tty: Stream on which, if it is a terminal, the line is redrawn after a progress bar.
    """

    def __init__(
        self,
        label: str,
        total: int,
        log: Log,
        *,
        unit: str = "images",
        interval_s: float = 5.0,
        tty: TextIO | None = None,
    ) -> None:
        self._label = label
        self._total = total
        self._log = log
        self._unit = unit
        self._interval_s = interval_s
        self._tty = tty if tty is not None and tty.isatty() else None
        self._drawn_at = 0.0
        self._started_at = self._logged_at = time.monotonic()
        self._logged: int | None = None
        self.done = 0
        self.kinds: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._started_at = self._logged_at = time.monotonic()
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
        if error is None and self._logged not in (None, self.done):
            self._log(self._line())

    @property
    def seconds(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._started_at

    def advance(self, count: int = 1, kind: str | None = None) -> None:
        """Count items as processed, under a kind such as a status."""
        self.done += count
        if kind is not None:
            self.kinds[kind] += count
        now = time.monotonic()
        if self._tty is not None and now - self._drawn_at >= _REDRAW_INTERVAL_S:
            self._drawn_at = now
            self._draw(self._tty)
        if now - self._logged_at >= self._interval_s:
            self._logged_at, self._logged = now, self.done
            self._log(self._line())

    def _draw(self, tty: TextIO) -> None:
        filled = _BAR_WIDTH * self.done // max(self._total, 1)
        line = f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {self._line()}"
        width = shutil.get_terminal_size().columns - 1
        tty.write("\r" + line[:width].ljust(width))
        tty.flush()

    def _line(self) -> str:
        rate = self.done / max(self.seconds, 1e-9)
        speed = f"{1 / rate:.1f} s each" if 0 < rate < 1 else f"{rate:.1f}/s"
        line = f"{self._label}: {self.done}/{self._total} {self._unit}, {speed}"
        if 0 < self.done < self._total:
            line += f", {(self._total - self.done) / rate:.0f} s left"
        if self.kinds:
            line += " (" + ", ".join(f"{kind} {n}" for kind, n in sorted(self.kinds.items())) + ")"
        return line


class ProgressListener:
    """Receives the progress of a run, from two threads; this one ignores it."""

    def started(self, name: str, images: int) -> None:
        """The pipeline of catalog `name` starts; its items have `images` images."""

    def fetched(self, name: str, images: int) -> None:
        """`images` more images were fetched, or were there already."""

    def embedded(self, name: str, images: int) -> None:
        """`images` more images were embedded, or were there already."""
