"""What can become of an item, and which failures are worth another try."""

from __future__ import annotations

from typing import Final

OK: Final = "ok"
# Not tried in this run, because the host had been given up.
SKIPPED_HOST: Final = "skipped_host"

# Failures that pass by themselves. Everything else stays until the URL changes or a person asks.
RETRYABLE: Final = frozenset(
    {
        "protocol_error",
        "connection_error",
        "dns_error",
        "internal_error",
        SKIPPED_HOST,
        "http_408",
        "http_425",
        "rate_limited",
        "truncated_body",
        "timeout",
        "tls_error",
    }
)
# Failures by our own limits: other settings may decide otherwise.
BY_SETTINGS: Final = frozenset(
    {
        "bad_redirect",
        "blocked_address",
        "blocked_path",
        "redirect_loop",
        "robots_disallowed",
        "too_large",
        "too_many_pixels",
        "unsupported_format",
    }
)
# Failures that tell of a host rather than of one of its URLs.
BY_HOST: Final = frozenset(
    {
        "connection_error",
        "dns_error",
        "http_502",
        "http_503",
        "http_504",
        "rate_limited",
        "timeout",
        "tls_error",
    }
)


def is_retryable(status: str) -> bool:
    """Whether a later attempt may succeed without anything changing on our side."""
    return status in RETRYABLE or status.startswith("http_5")


class FetchError(Exception):
    """A fetch that did not yield an image.

    `retry_after` is what the server asked for, in seconds, and `etag` the version of what was
    refused, if it was there.
    """

    def __init__(
        self, status: str, detail: str, retry_after: float | None = None, etag: str | None = None
    ) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = plain_text(detail)
        self.retry_after = retry_after
        self.etag = etag


def plain_text(text: str) -> str:
    """Text that a table can hold: what a server sent need not be valid Unicode."""
    return text.encode(errors="replace").decode()
