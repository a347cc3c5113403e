"""The statuses of images, and which failures are worth another request."""

from __future__ import annotations

from typing import Final

from imgsim_assets.text import printable_line

OK: Final = "ok"
# The answer was something else. It may pass if a whole host answers so.
NOT_IMAGE: Final = "not_image"
# Not requested, because the circuit breaker had skipped the host for this run.
SKIPPED_HOST: Final = "skipped_host"

# Failures of a host rather than of one of its URLs; the circuit breaker counts these.
HOST_FAILURES: Final = frozenset(
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
# Failures that may be temporary; others stay until the URL changes or a person retries.
RETRYABLE: Final = HOST_FAILURES | frozenset(
    {
        "http_407",
        "http_408",
        "http_425",
        "internal_error",
        "protocol_error",
        SKIPPED_HOST,
        "truncated_body",
    }
)
# Failures that depend on the settings: a run with other settings tries them again.
DEPENDS_ON_SETTINGS: Final = frozenset(
    {
        "bad_redirect",
        "blocked_address",
        "blocked_path",
        "http_401",
        "http_403",
        "http_406",
        "redirect_loop",
        "robots_disallowed",
        "too_large",
        "too_many_pixels",
        "unsupported_format",
    }
)


def is_retryable(status: str) -> bool:
    """Whether a later request may succeed although no URL, file or setting changed."""
    return status in RETRYABLE or status.startswith("http_5")


class FetchError(Exception):
    """A fetch that returned no image.

    Args:
        status: one of the statuses of the ledger.
        detail: the message for people.
        retry_after: seconds that the server asked to wait.
        etag: the version of what was refused, if it exists.
    """

    def __init__(
        self, status: str, detail: str, retry_after: float | None = None, etag: str | None = None
    ) -> None:
        self.status = status
        self.detail = printable_line(detail)
        super().__init__(f"{status}: {self.detail}")
        self.retry_after = retry_after
        self.etag = etag


def plain_text(text: str) -> str:
    """Text that a table can store: what a server sent need not be valid Unicode."""
    return text.encode(errors="replace").decode()
