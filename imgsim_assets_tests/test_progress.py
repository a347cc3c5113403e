from __future__ import annotations

import io
import re
import time

import pytest

from imgsim_assets.progress import Progress, silent


def test_a_step_shorter_than_the_interval_says_nothing() -> None:
    said: list[str] = []

    with Progress("fetch", 3, said.append, interval_s=60) as progress:
        for _ in range(3):
            progress.advance(kind="ok")

    assert said == []
    assert progress.done == 3


def test_a_line_tells_label_done_total_unit_and_kinds() -> None:
    said: list[str] = []

    with Progress("fetch", 10, said.append, unit="rows", interval_s=0) as progress:
        progress.advance(3, kind="timeout")
        progress.advance(2, kind="ok")

    assert re.match(r"fetch: 5/10 rows, [\d.]+/s, \d+ s left \(ok 2, timeout 3\)$", said[1])


def test_time_left_follows_from_the_rate_so_far() -> None:
    said: list[str] = []

    with Progress("embed", 4, said.append, interval_s=0) as progress:
        time.sleep(0.3)
        progress.advance(1)
        elapsed = progress.seconds

    rate, left = re.findall(r"([\d.]+)/s, (\d+) s left", said[0])[0]
    assert float(rate) == pytest.approx(1 / elapsed, rel=0.5)
    assert int(left) == pytest.approx(3 * elapsed, abs=1)


def test_a_finished_step_says_no_time_left() -> None:
    said: list[str] = []

    with Progress("embed", 2, said.append, interval_s=0) as progress:
        progress.advance(2)

    assert said
    assert "2/2 images" in said[-1]
    assert "left" not in said[-1]


def test_a_long_step_ends_with_its_final_counts() -> None:
    said: list[str] = []

    with Progress("fetch", 3, said.append, interval_s=0.05) as progress:
        time.sleep(0.06)
        progress.advance()
        progress.advance(2)

    assert "3/3" in said[-1]


def test_lines_keep_the_interval_between_them() -> None:
    said: list[str] = []

    with Progress("fetch", 1000, said.append, interval_s=0.1) as progress:
        while len(said) < 3:
            progress.advance()
            time.sleep(0.001)
        assert progress.seconds >= 0.3


def test_a_step_that_fails_does_not_claim_to_have_ended() -> None:
    said: list[str] = []

    def fail_after_one() -> None:
        with Progress("fetch", 3, said.append, interval_s=0) as progress:
            progress.advance()
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail_after_one()
    assert len(said) == 1


def test_a_step_without_anything_to_do_divides_by_nothing() -> None:
    said: list[str] = []

    with Progress("fetch", 0, said.append, interval_s=0) as progress:
        progress.advance(0)

    assert said[0].startswith("fetch: 0/0 images, 0.0/s")


def test_a_log_that_is_not_listened_to_takes_every_line() -> None:
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


def test_what_is_no_terminal_shows_no_bar() -> None:
    stream = io.StringIO()
    with Progress("shop", 1, silent, tty=stream) as progress:
        progress.advance()
    assert stream.getvalue() == ""
