from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.download.scheduling.circuit_breaker import BreakerState, CircuitBreaker


def test_breaker_opens_after_consecutive_failures_only() -> None:
    breaker = CircuitBreaker(3)
    for outcome in (False, False, True, False, False):
        assert not (breaker.record_success() if outcome else breaker.record_failure("timeout"))
    assert breaker.state is BreakerState.CLOSED
    assert breaker.record_failure("timeout")
    assert (breaker.state, breaker.reason) == (BreakerState.OPEN, "timeout")


def test_failed_probe_skips_the_host() -> None:
    breaker = CircuitBreaker(1)
    breaker.record_failure("timeout")
    is_probe = breaker.start_request()
    assert breaker.record_failure("connect: refused", is_probe=is_probe)
    assert breaker.state is BreakerState.SKIPPED
    assert breaker.reason == "2 failures in a row, the last: connect: refused"


def test_successful_probe_closes_the_breaker() -> None:
    breaker = CircuitBreaker(1)
    breaker.record_failure("timeout")
    breaker.start_request()
    assert breaker.record_success()
    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 0)


def test_failure_of_an_earlier_request_is_not_a_failed_probe() -> None:
    breaker = CircuitBreaker(1)
    breaker.record_failure("timeout")
    assert not breaker.record_failure("timeout")
    assert breaker.state is BreakerState.OPEN


def test_earlier_requests_do_not_decide_about_a_running_probe() -> None:
    breaker = CircuitBreaker(1)
    breaker.record_failure("timeout")
    assert breaker.start_request()
    assert not breaker.start_request()
    assert not breaker.record_failure("an old request: timeout", is_probe=False)
    assert breaker.record_success()
    assert breaker.state is BreakerState.CLOSED


@given(st.lists(st.sampled_from(["record_success", "record_failure", "start_request"])))
def test_skipped_host_stays_skipped(history: list[str]) -> None:
    breaker = CircuitBreaker(2)
    breaker.skip("it asks to be left alone", 600)
    for step in history:
        breaker.record_failure("timeout") if step == "record_failure" else getattr(breaker, step)()
    assert breaker.state is BreakerState.SKIPPED
    assert breaker.retry_after == 600
