from __future__ import annotations

import io
import re
import time

import pytest

from imgsim_assets.progress import Progress, silent


def test_a_step_shorter_than_the_interval_logs_nothing() -> None:
    lines: list[str] = []

    with Progress("fetch", 3, lines.append, interval_s=60) as progress:
        for _ in range(3):
            progress.advance(kind="ok")

    assert lines == []
    assert progress.done == 3


def test_a_line_has_label_done_total_unit_and_kinds() -> None:
    lines: list[str] = []

    with Progress("fetch", 10, lines.append, unit="rows", interval_s=0) as progress:
        progress.advance(3, kind="timeout")
        progress.advance(2, kind="ok")

    assert re.match(r"fetch: 5/10 rows, [\d.]+/s, \d+ s left \(ok 2, timeout 3\)$", lines[1])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.5, "embed: 1/5 images, 2.0/s, 2 s left"), (4, "embed: 1/5 images, 4.0 s each, 16 s left")],
)
def test_speed_and_time_left_are_estimated_from_what_is_done(
    seconds: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, lines = 100.0, list[str]()
    monkeypatch.setattr("imgsim_assets.progress.time.monotonic", lambda: now)

    with Progress("embed", 5, lines.append, interval_s=0) as progress:
        now += seconds
        progress.advance(1)

    assert lines == [expected]


def test_a_finished_step_logs_no_time_left() -> None:
    lines: list[str] = []

    with Progress("embed", 2, lines.append, interval_s=0) as progress:
        progress.advance(2)

    assert lines
    assert "2/2 images" in lines[-1]
    assert "left" not in lines[-1]


def test_a_long_step_ends_with_its_final_counts() -> None:
    lines: list[str] = []

    with Progress("fetch", 3, lines.append, interval_s=0.05) as progress:
        time.sleep(0.06)
        progress.advance()
        progress.advance(2)

    assert "3/3" in lines[-1]


def test_lines_keep_the_interval_between_them() -> None:
    lines: list[str] = []

    with Progress("fetch", 1000, lines.append, interval_s=0.1) as progress:
        while len(lines) < 3:
            progress.advance()
            time.sleep(0.001)
        assert progress.seconds >= 0.3


def test_a_failed_step_logs_no_final_line() -> None:
    lines: list[str] = []

    def fail_after_one() -> None:
        with Progress("fetch", 3, lines.append, interval_s=0) as progress:
            progress.advance()
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail_after_one()
    assert len(lines) == 1


def test_a_step_without_items_does_not_divide_by_zero() -> None:
    lines: list[str] = []

    with Progress("fetch", 0, lines.append, interval_s=0) as progress:
        progress.advance(0)

    assert lines[0].startswith("fetch: 0/0 images, 0.0/s")


def test_silent_accepts_every_line() -> None:
    with Progress("fetch", 1, silent, interval_s=0) as progress:
        progress.advance()

    assert progress.done == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_that_ends_full() -> None:
    terminal = Terminal()
    with Progress("shop", 10, silent, tty=terminal) as progress:
        for _ in range(10):
            progress.advance(kind="ok")
    drawn = terminal.getvalue().split("\r")
    assert drawn[1].startswith("[##")
    assert drawn[-1].startswith("[########################] shop: 10/10 images")
    assert drawn[-1].endswith("\n")


def test_a_stream_that_is_not_a_terminal_shows_no_bar() -> None:
    stream = io.StringIO()
    with Progress("shop", 1, silent, tty=stream) as progress:
        progress.advance()
    assert stream.getvalue() == ""
