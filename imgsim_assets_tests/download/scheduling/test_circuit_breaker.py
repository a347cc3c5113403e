from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.download.scheduling.circuit_breaker import BreakerState, CircuitBreaker


def test_failures_in_a_row_open_it_and_an_answer_between_them_does_not() -> None:
    breaker = CircuitBreaker(3)
    for outcome in (False, False, True, False, False):
        assert not (breaker.record_success() if outcome else breaker.record_failure("timeout"))
    assert breaker.state is BreakerState.CLOSED
    assert breaker.record_failure("timeout")
    assert (breaker.state, breaker.reason) == (BreakerState.OPEN, "timeout")


def test_a_probe_that_fails_gives_the_host_up() -> None:
    breaker = CircuitBreaker(1)
    breaker.record_failure("timeout")
    is_probe = breaker.start_request()
    assert breaker.record_failure("connect: refused", is_probe=is_probe)
    assert breaker.state is BreakerState.SKIPPED
    assert breaker.reason == "2 failures in a row, the last: connect: refused"


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = CircuitBreaker(1)
    breaker.record_failure("timeout")
    breaker.start_request()
    assert breaker.record_success()
    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 0)


def test_what_was_under_way_when_it_opened_is_no_probe() -> None:
    breaker = CircuitBreaker(1)
    breaker.record_failure("timeout")
    assert not breaker.record_failure("timeout")
    assert breaker.state is BreakerState.OPEN


def test_what_was_under_way_when_it_opened_says_nothing_about_the_probe() -> None:
    breaker = CircuitBreaker(1)
    breaker.record_failure("timeout")
    assert breaker.start_request()
    assert not breaker.start_request()
    assert not breaker.record_failure("an old request: timeout", is_probe=False)
    assert breaker.record_success()
    assert breaker.state is BreakerState.CLOSED


@given(st.lists(st.sampled_from(["record_success", "record_failure", "start_request"])))
def test_a_host_that_was_given_up_stays_so(history: list[str]) -> None:
    breaker = CircuitBreaker(2)
    breaker.skip("it asks to be left alone", 600)
    for step in history:
        breaker.record_failure("timeout") if step == "record_failure" else getattr(breaker, step)()
    assert breaker.state is BreakerState.SKIPPED
    assert breaker.retry_after == 600
