"""The ledger row of each outcome: fetched, unchanged, failed."""

from __future__ import annotations

from datetime import datetime, timedelta

from imgsim_assets.download.fetched import Fetched
from imgsim_assets.download.image_writer import StoredImage
from imgsim_assets.download.ledger.fetch_plan import DueImage
from imgsim_assets.download.ledger.table import Row
from imgsim_assets.download.status import OK, SKIPPED_HOST, FetchError, is_retryable
from imgsim_assets.storage.gc import LOCATION

# Between runs a retryable failure waits 5 minutes, then 4 times as long each time. The longest
# wait is shorter than a day, so that a nightly run always retries.
_FIRST_WAIT = timedelta(minutes=5)
_MAX_WAIT = timedelta(hours=20)
_MAX_DETAIL = 500


def fetched_row(due: DueImage, fetched: Fetched, image: StoredImage, now: datetime) -> Row:
    """The row of an image that arrived."""
    return {
        "id": due.id,
        "image": due.image,
        "url": due.url,
        "status": OK,
        "retryable": False,
        "attempts": 0,
        "etag": fetched.etag,
        "last_modified": fetched.last_modified,
        "sha256": image.sha256,
        "bytes": len(fetched.data or b""),
        "width": image.header.width,
        "height": image.header.height,
        "format": image.header.format,
        LOCATION: fetched.location,
        "is_link": fetched.is_link,
        "fetched_at": now,
        "checked_at": now,
    }


def unchanged_row(due: DueImage, now: datetime) -> Row:
    """The row of a cached image that is still the newest version."""
    return {
        **(due.cached or {}),
        "detail": None,
        "attempts": 0,
        "next_retry_at": None,
        "checked_at": now,
        "revalidation_error": None,
    }


def failed_row(
    due: DueImage, error: FetchError, now: datetime, *, is_temporary: bool = False
) -> Row:
    """The row of a failure; a later run waits at least as long as the server asked.

    `is_temporary` says that a later run may succeed, whatever the status usually means. A skipped
    image does not count as one more failed attempt. A cached image stays, and its row
    records the error in `revalidation_error`.
    """
    retryable = is_temporary or is_retryable(error.status)
    attempts = due.attempts + (error.status != SKIPPED_HOST)
    wait = max(retry_wait(attempts), timedelta(seconds=error.retry_after or 0))
    if due.cached is not None:
        return {
            **due.cached,
            "detail": error.detail[:_MAX_DETAIL],
            "attempts": attempts,
            "next_retry_at": now + (wait if retryable else _MAX_WAIT),
            "revalidation_error": error.status,
        }
    return {
        "id": due.id,
        "image": due.image,
        "url": due.url,
        "status": error.status,
        "retryable": retryable,
        "detail": error.detail[:_MAX_DETAIL],
        "attempts": attempts,
        "next_retry_at": now + wait if retryable else None,
        "etag": error.etag,
        "fetched_at": now,
    }


def retry_wait(attempts: int) -> timedelta:
    """How long a later run waits after `attempts` consecutive failures."""
    growth: int = 4 ** min(max(attempts - 1, 0), 8)
    return min(_FIRST_WAIT * growth, _MAX_WAIT)


def failure_status(row: Row) -> str | None:
    """The status of a row's failure, also when its cached image stays; None for a success."""
    status: str = row.get("revalidation_error") or row["status"]
    return None if status == OK else status
