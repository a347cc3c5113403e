"""Responses and errors of the HTTP client as statuses."""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
import time
from collections.abc import Mapping

import aiohttp

from imgsim_assets.download.http.address import BlockedAddressError
from imgsim_assets.download.status import FetchError

MAX_RETRY_AFTER_SECONDS = 3600.0
_NO_BODY = frozenset({204, 205})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


def check_status(status: int, reason: str | None, headers: Mapping[str, str]) -> None:
    """Raise FetchError unless the response has a status with a whole image."""
    if status == 429:
        raise FetchError("rate_limited", "429 Too Many Requests", retry_after(headers))
    if not 200 <= status < 300 or status in _NO_BODY:
        raise FetchError(f"http_{status}", reason or "", retry_after(headers))
    if status == 206 and not _is_whole(headers.get("Content-Range", "")):
        raise FetchError("http_206", f"only {headers['Content-Range'][:100]}")


def _is_whole(content_range: str) -> bool:
    """Whether a 206, which was not requested, has the whole image."""
    match = _CONTENT_RANGE.match(content_range)
    return match is None or (int(match[1]) == 0 and int(match[2]) + 1 == int(match[3]))


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
    if isinstance(error, aiohttp.ClientHttpProxyError):
        if error.status == 407:
            return FetchError("http_407", "the proxy asks for another user name and password")
        return FetchError("connection_error", f"the proxy: {error.status} {error.message}"[:200])
    if isinstance(error, aiohttp.ClientResponseError):
        return FetchError("protocol_error", f"{type(error).__name__}: {error.message}"[:200])
    return FetchError("connection_error", f"{type(error).__name__}: {error}")


def os_error(error: OSError) -> FetchError:
    """The status of an error of a socket."""
    if isinstance(error, BlockedAddressError):
        return FetchError("blocked_address", str(error))
    if isinstance(error, socket.gaierror):
        return FetchError("dns_error", str(error))
    if isinstance(error, ssl.SSLError):
        return FetchError("tls_error", str(error))
    return FetchError("connection_error", f"{type(error).__name__}: {error}")
