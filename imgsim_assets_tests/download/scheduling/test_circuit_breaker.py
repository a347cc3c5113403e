from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.download.scheduling.circuit_breaker import Breaker, State


def test_failures_in_a_row_open_it_and_an_answer_between_them_does_not() -> None:
    breaker = Breaker(3)
    for outcome in (False, False, True, False, False):
        assert not (breaker.succeeded() if outcome else breaker.failed("timeout"))
    assert breaker.state is State.CLOSED
    assert breaker.failed("timeout")
    assert (breaker.state, breaker.reason) == (State.OPEN, "timeout")


def test_a_probe_that_fails_gives_the_host_up() -> None:
    breaker = Breaker(1)
    breaker.failed("timeout")
    is_probe = breaker.probe()
    assert breaker.failed("connect: refused", is_probe=is_probe)
    assert breaker.state is State.GIVEN_UP
    assert breaker.reason == "2 failures in a row, the last: connect: refused"


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = Breaker(1)
    breaker.failed("timeout")
    breaker.probe()
    assert breaker.succeeded()
    assert (breaker.state, breaker.failures) == (State.CLOSED, 0)


def test_what_was_under_way_when_it_opened_is_no_probe() -> None:
    breaker = Breaker(1)
    breaker.failed("timeout")
    assert not breaker.failed("timeout")
    assert breaker.state is State.OPEN


def test_what_was_under_way_when_it_opened_says_nothing_about_the_probe() -> None:
    breaker = Breaker(1)
    breaker.failed("timeout")
    assert breaker.probe()
    assert not breaker.probe()
    assert not breaker.failed("an old request: timeout", is_probe=False)
    assert breaker.succeeded()
    assert breaker.state is State.CLOSED


@given(st.lists(st.sampled_from(["succeeded", "failed", "probe"])))
def test_a_host_that_was_given_up_stays_so(history: list[str]) -> None:
    breaker = Breaker(2)
    breaker.give_up("it asks to be left alone", 600)
    for step in history:
        breaker.failed("timeout") if step == "failed" else getattr(breaker, step)()
    assert breaker.state is State.GIVEN_UP
    assert breaker.retry_after == 600
