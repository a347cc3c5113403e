"""Responses and errors of the HTTP client as statuses."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping

import aiohttp
from multidict import CIMultiDictProxy

from imgsim_assets.download.http.address import BlockedAddressError
from imgsim_assets.download.status import FetchError, plain_text

MAX_RETRY_AFTER_SECONDS = 3600.0


def check_response(response: aiohttp.ClientResponse) -> None:
    """Raise FetchError unless the response is a 200 with a plain body.

    A compressed body may decompress into gigabytes.
    """
    if response.status == 429:
        raise FetchError("rate_limited", "429 Too Many Requests", retry_after(response.headers))
    if response.status != 200:
        wait = retry_after(response.headers)
        raise FetchError(f"http_{response.status}", response.reason or "", wait)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        detail = f"the body is compressed by {plain_text(encoding)[:40]}"
        raise FetchError("unexpected_encoding", detail)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """The Retry-After header in seconds from now, at most an hour; None without a usable one."""
    value = headers.get("Retry-After", "").strip()
    try:
        if value.isascii() and value.isdecimal():
            wait = float(value)
        else:
            moment = email.utils.parsedate_to_datetime(value).timestamp()
            wait = moment - (time.time() if now is None else now)
    except (ValueError, OverflowError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER_SECONDS)


def header_text(headers: CIMultiDictProxy[str], name: str) -> str | None:
    """A header that the ledger can store."""
    value = headers.get(name)
    return plain_text(value) if value is not None else None


def client_error(error: aiohttp.ClientError) -> FetchError:
    """The status of an aiohttp error; the order matters, because the classes are nested."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return FetchError("dns_error", str(error.os_error))
    if isinstance(error, aiohttp.ClientSSLError):
        return FetchError("tls_error", str(error))
    if isinstance(error, aiohttp.ClientConnectorError):
        # With several addresses aiohttp joins their errors into one text.
        is_blocked = isinstance(error.os_error, BlockedAddressError) or (
            "blocked address" in str(error.os_error)
        )
        status = "blocked_address" if is_blocked else "connection_error"
        return FetchError(status, str(error.os_error))
    if isinstance(error, aiohttp.ServerTimeoutError):
        return FetchError("timeout", str(error))
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError("bad_url", str(error))
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchError("truncated_body", str(error))
    if isinstance(error, aiohttp.ClientResponseError):
        return FetchError("protocol_error", f"{type(error).__name__}: {error.message}"[:200])
    return FetchError("connection_error", f"{type(error).__name__}: {error}")
