from __future__ import annotations

import pytest

from imgsim_assets.download.status import FetchError, is_retryable


@pytest.mark.parametrize(
    "status",
    [
        "connection_error",
        "dns_error",
        "timeout",
        "truncated_body",
        "rate_limited",
        "protocol_error",
        "internal_error",
        "tls_error",
        "http_408",
        "http_425",
        "http_500",
        "http_502",
        "http_503",
        "http_504",
        "http_599",
    ],
)
def test_retryable_statuses(status: str) -> None:
    assert is_retryable(status)


@pytest.mark.parametrize(
    "status",
    [
        "ok",
        "http_204",
        "http_206",
        "http_304",
        "http_400",
        "http_401",
        "http_403",
        "http_404",
        "http_410",
        "http_451",
        "bad_url",
        "bad_redirect",
        "redirect_loop",
        "blocked_address",
        "blocked_path",
        "missing_file",
        "too_large",
        "too_many_pixels",
        "not_image",
        "truncated",
        "unsupported_format",
    ],
)
def test_statuses_that_are_not_retryable(status: str) -> None:
    assert not is_retryable(status)


def test_message_of_a_fetch_error_is_status_and_detail() -> None:
    error = FetchError("rate_limited", "429 Too Many Requests", retry_after=3.0)
    assert str(error) == "rate_limited: 429 Too Many Requests"
    assert (error.status, error.retry_after) == ("rate_limited", 3.0)
