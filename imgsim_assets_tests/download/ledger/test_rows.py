from __future__ import annotations

from datetime import timedelta

import pytest

from imgsim_assets.download.ledger.fetch_plan import DueImage
from imgsim_assets.download.ledger.rows import failed_row, retry_wait
from imgsim_assets.download.status import FetchError
from imgsim_assets_tests.support.downloads import NOW, URL, failure


def test_retryable_failure_is_counted_and_scheduled() -> None:
    row = failure("timeout", DueImage("a", URL, 2))
    assert (row["attempts"], row["retryable"]) == (3, True)
    assert row["next_retry_at"] == NOW + retry_wait(3)


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        (None, timedelta(minutes=5)),
        (0.0, timedelta(minutes=5)),
        (299.0, timedelta(minutes=5)),
        (301.0, timedelta(seconds=301)),
        (3600.0, timedelta(hours=1)),
    ],
)
def test_later_run_waits_at_least_as_long_as_the_server_asked(
    retry_after: float | None, wait: timedelta
) -> None:
    row = failed_row(DueImage("a", URL, 0), FetchError("rate_limited", "", retry_after), NOW)
    assert row["next_retry_at"] == NOW + wait


def test_permanent_failure_is_not_scheduled() -> None:
    row = failed_row(DueImage("a", URL, 0), FetchError("http_404", "Not Found", 60.0), NOW)
    assert (row["attempts"], row["retryable"], row["next_retry_at"]) == (1, False, None)


def test_long_detail_is_truncated() -> None:
    error = FetchError("protocol_error", "x" * 100_000)
    row = failed_row(DueImage("a", URL, 0), error, NOW)
    assert len(row["detail"]) == 500


def test_retry_waits_grow_from_minutes_to_less_than_a_day() -> None:
    waits = [retry_wait(attempts) for attempts in range(1, 2000)]
    assert waits[:3] == [timedelta(minutes=5), timedelta(minutes=20), timedelta(minutes=80)]
    assert waits == sorted(waits)
    assert waits[-1] < timedelta(days=1)
