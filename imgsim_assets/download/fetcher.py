"""Fetching one image over HTTP, with every way it can go wrong turned into a status."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from yarl import URL

from imgsim_assets.download.address import BlockedAddressError, guarded_socket
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import FetchError, plain_text

_PIECE_BYTES = 1 << 16
# Characters of a path or query that are sent as they stand.
_KEPT = "%/:=&?~#+!$,;'@()*[]|"
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A header block of this size is enough for any image host and bounds what one can make us hold.
_MAX_HEADER_BYTES = 16_384
_LONGEST_WAIT_SECONDS = 3600.0


@dataclass(frozen=True)
class Fetched:
    """An image's bytes and what the server said about their version."""

    data: bytes
    etag: str | None = None
    last_modified: str | None = None


class Fetcher:
    """An HTTP client that dials public web addresses and the hosts a catalogue allows.

    Use it as an async context manager within one event loop.
    """

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._guarded: aiohttp.ClientSession | None = None
        self._trusted: aiohttp.ClientSession | None = None
        self._places: dict[str, asyncio.Semaphore] = {}

    async def __aenter__(self) -> Self:
        self._guarded = self._session(
            aiohttp.TCPConnector(limit=0, socket_factory=guarded_socket(), ttl_dns_cache=60)
        )
        self._trusted = self._session(aiohttp.TCPConnector(limit=0, ttl_dns_cache=60))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in (self._guarded, self._trusted):
            if session is not None:
                await session.close()

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            # No proxy, cookies or credentials by accident, and no decompression: a body is
            # counted as it travels, so a small one cannot unfold into a large one.
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            headers={
                "User-Agent": self._settings.user_agent,
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=self._settings.connect_timeout,
                sock_read=self._settings.read_timeout,
            ),
        )

    async def fetch(self, url: str) -> Fetched:
        """GET an image, following redirects; raises FetchError for whatever goes wrong."""
        try:
            async with asyncio.timeout(self._settings.timeout) as deadline:
                return await self._follow(_parsed(url), deadline)
        except aiohttp.ClientError as error:
            raise _explain(error) from error
        except UnicodeError as error:  # a host name that cannot be looked up
            raise FetchError("bad_url", str(error)) from error
        except TimeoutError:
            raise FetchError("timeout", f"not done in {self._settings.timeout:g} s") from None

    async def _follow(self, url: URL, deadline: asyncio.Timeout) -> Fetched:
        target = url
        for _ in range(self._settings.max_redirects + 1):
            session = self._session_for(target)
            async with (
                self._place_at(target, deadline),
                session.get(target, allow_redirects=False) as response,
            ):
                if response.status in _REDIRECTS and "Location" in response.headers:
                    target = _redirected(target, response.headers["Location"])
                    continue
                _check_status(response)
                return Fetched(
                    await self._body(response),
                    _header(response, "ETag"),
                    _header(response, "Last-Modified"),
                )
        raise FetchError("redirect_loop", f"more than {self._settings.max_redirects} redirects")

    @contextlib.asynccontextmanager
    async def _place_at(self, url: URL, deadline: asyncio.Timeout) -> AsyncIterator[None]:
        """One of the few places at a host; waiting for it does not count as fetching."""
        host = host_of(str(url))
        place = self._places.setdefault(host, asyncio.Semaphore(self._settings.max_per_host))
        if place.locked():
            now = asyncio.get_running_loop().time
            left = (deadline.when() or now()) - now()
            deadline.reschedule(None)
            await place.acquire()
            deadline.reschedule(now() + left)
        else:
            await place.acquire()
        try:
            yield
        finally:
            place.release()

    def _session_for(self, url: URL) -> aiohttp.ClientSession:
        """The unguarded session for hosts the catalogue names, the guarded one otherwise."""
        if url.scheme not in ("http", "https"):
            raise FetchError("bad_url", f"cannot fetch {url.scheme}://")
        if url.user is not None or url.password is not None:
            raise FetchError("bad_url", "user names and passwords in URLs are not sent")
        if not url.host:
            raise FetchError("bad_url", "no host")
        host = f"[{url.host}]" if ":" in url.host else url.host.lower()
        named = {host, f"{host}:{url.port}"} & set(self._settings.allow_hosts)
        session = self._trusted if named else self._guarded
        if session is None:
            raise RuntimeError("a Fetcher is used inside `async with`")
        return session

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._settings.max_bytes
        if (response.content_length or 0) > limit:
            raise FetchError("too_large", f"{response.content_length} bytes are declared")
        body = bytearray()
        async for piece in response.content.iter_chunked(_PIECE_BYTES):
            body += piece
            if len(body) > limit:
                raise FetchError("too_large", f"more than {limit} bytes")
        if not body:
            raise FetchError("short_body", "the body is empty")
        return bytes(body)


def _parsed(url: str, relative_to: str = "") -> URL:
    """A URL with its path and query as they were written.

    yarl would decode escapes that need not be there, which breaks signed URLs; only what no
    URL may hold is escaped.
    """
    try:
        parts = urlsplit(urljoin(relative_to, url))
        origin = URL(f"{parts.scheme}://{parts.netloc}")
        return URL.build(
            scheme=origin.scheme,
            authority=origin.raw_authority,
            path=_escaped(parts.path) or "/",
            query_string=_escaped(parts.query),
            encoded=True,
        )
    except ValueError as error:
        raise FetchError("bad_url", str(error)) from error


def _escaped(text: str) -> str:
    """What no URL may hold escaped, and escapes left as they are.

    A header's bytes that are not valid UTF-8 are lone surrogates: they are sent as bytes.
    """
    return quote(_STRAY_PERCENT.sub("%25", text), safe=_KEPT, errors="surrogateescape")


def _redirected(source: URL, location: str) -> URL:
    target = _parsed(location, relative_to=str(source))
    if source.scheme == "https" and target.scheme == "http":
        raise FetchError("bad_redirect", "from https to http")
    return target


def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    wait = retry_after(response.headers)
    if response.status == 429:
        raise FetchError("rate_limited", "429 Too Many Requests", wait)
    raise FetchError(f"http_{response.status}", response.reason or "", wait)


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
    return min(max(wait, 0.0), _LONGEST_WAIT_SECONDS)


def _header(response: aiohttp.ClientResponse, name: str) -> str | None:
    value = response.headers.get(name)
    return plain_text(value) if value is not None else None


def _explain(error: aiohttp.ClientError) -> FetchError:
    """The status of an error of aiohttp's; the order matters, they derive from each other."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return FetchError("dns", str(error.os_error))
    if isinstance(error, aiohttp.ClientSSLError):
        return FetchError("tls", str(error))
    if isinstance(error, aiohttp.ClientConnectorError):
        # With several addresses aiohttp folds their errors into one text.
        blocked = isinstance(error.os_error, BlockedAddressError) or (
            "blocked address" in str(error.os_error)
        )
        return FetchError("blocked_address" if blocked else "connect", str(error.os_error))
    if isinstance(error, aiohttp.ServerTimeoutError):
        return FetchError("timeout", str(error))
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError("bad_url", str(error))
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchError("short_body", str(error))
    if isinstance(error, aiohttp.ClientResponseError):
        return FetchError("bad_response", f"{type(error).__name__}: {error.message}"[:200])
    return FetchError("connect", f"{type(error).__name__}: {error}")


def host_of(url: str) -> str:
    """What politeness is counted by: host and port, '' for a local path or no URL at all."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        return f"{(parts.hostname or '').rstrip('.')}:{port}" if "://" in url else ""
    except ValueError:
        return ""
