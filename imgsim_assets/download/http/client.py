"""Fetching one image over HTTP, with every way it can go wrong turned into a status."""

from __future__ import annotations

import asyncio
import email.utils
import functools
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDictProxy
from yarl import URL

from imgsim_assets.download.http import robots
from imgsim_assets.download.http.address import BlockedAddressError, guarded_socket, is_public
from imgsim_assets.download.http.deadline import Deadline, Deadlines
from imgsim_assets.download.http.host_semaphore import HostSemaphore
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import FetchError, plain_text

# Characters of a path or query that are sent as they stand.
_KEPT = "%/:=&?~#+!$,;'@()*[]|"
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A header block of this size is enough for any image host and bounds what one can make us hold.
_MAX_HEADER_BYTES = 16_384
_LONGEST_WAIT_SECONDS = 3600.0
# A server that says nothing for so long is slow, and may be dead.
_QUIET_SECONDS = 1.0
# What RFC 9309 asks of whoever reads a robots.txt.
_ROBOTS_TXT_BYTES = 500 * 1024


@dataclass(frozen=True, slots=True)
class Version:
    """What a server said about the version of an image that is held already."""

    etag: str | None
    last_modified: str | None

    @property
    def conditions(self) -> dict[str, str]:
        """The headers of a request for anything newer."""
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value}


class Fetched(NamedTuple):
    """An image's bytes, None when the version held is still the newest, and their version."""

    data: bytes | None
    etag: str | None = None
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class _Way:
    """How the URLs of one origin are reached: the session, the proxy to go by, and the places."""

    session: aiohttp.ClientSession
    proxy: str | None
    places: HostSemaphore


class _Connector(aiohttp.TCPConnector):
    """A connector under whose work a server's silence does not count: it has its own limit."""

    def __init__(self, deadlines: Deadlines, **options: Any) -> None:
        super().__init__(limit=0, ttl_dns_cache=60, **options)
        self._deadlines = deadlines

    async def _create_connection(self, *arguments: Any, **options: Any) -> ResponseHandler:
        deadline = self._deadlines.current()
        if deadline is None:
            return await super()._create_connection(*arguments, **options)
        now = asyncio.get_running_loop().time
        left = deadline.silent_at - now()
        deadline.silent_at = math.inf
        made = await super()._create_connection(*arguments, **options)
        deadline.silent_at = now() + left
        return made


class HttpClient:
    """An HTTP client that dials public web addresses and the hosts a catalog allows.

    Use it as an async context manager within one event loop.
    """

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._allowed = frozenset(settings.allowed_hosts)
        self._max_bytes = settings.max_bytes
        self._guarded: aiohttp.ClientSession | None = None
        self._trusted: aiohttp.ClientSession | None = None
        self._deadlines = Deadlines()
        self._places: dict[str, HostSemaphore] = {}
        self._ways: dict[tuple[str, str], _Way] = {}
        self._rules: dict[str, asyncio.Task[robots.Rules]] = {}

    async def __aenter__(self) -> Self:
        if self._settings.respect_robots_txt:
            robots.check_available()
        self._guarded = self._session(_Connector(self._deadlines, socket_factory=guarded_socket()))
        self._trusted = self._session(_Connector(self._deadlines))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._rules.values():
            task.cancel()
        await asyncio.gather(*self._rules.values(), return_exceptions=True)
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
                "User-Agent": self._settings.agent,
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            # Silence is looked for together with the deadlines: a timer for every piece that
            # arrives takes a twentieth of the time of fetching it.
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._settings.connect_timeout_s, sock_read=None
            ),
        )

    async def fetch(self, url: str, held: Version | None = None) -> Fetched:
        """GET an image, or what is newer than the version held, following redirects.

        Raises FetchError for whatever goes wrong.
        """
        try:
            with self._deadlines.within(self._settings.timeout_s) as deadline:
                return await self._follow(_parsed(url), deadline, held)
        except aiohttp.ClientError as error:
            raise _explain(error) from error
        except UnicodeError as error:  # a host name that cannot be looked up
            raise FetchError("bad_url", str(error)) from error
        except TimeoutError:
            raise self._too_late(deadline) from None

    def quiet(self) -> int:
        """How many requests have heard nothing for a second, or had no turn at a host for so long.

        With `respect_robots_txt`, those for a robots.txt and those that wait for it.
        """
        return self._deadlines.quiet(_QUIET_SECONDS)

    def _too_late(self, deadline: Deadline) -> FetchError:
        if deadline.silent_at < deadline.at:
            return FetchError("timeout", f"silent for {self._settings.read_timeout_s:g} s")
        return FetchError("timeout", f"not done in {self._settings.timeout_s:g} s")

    async def _follow(
        self, target: URL, deadline: Deadline, held: Version | None, *, obey: bool = True
    ) -> Fetched:
        """`obey=False` leaves out what robots have to obey: for the request of a robots.txt."""
        conditions = held.conditions if held is not None else {}
        for _ in range(self._settings.max_redirects + 1):
            deadline.silent_at = math.inf
            way = self._way_to(target)
            if obey and self._settings.respect_robots_txt:
                await self._ask_robots_txt(target, deadline)
            if not way.places.take():
                await _wait_for_place(way.places, deadline)
            deadline.hear(self._settings.read_timeout_s)
            try:
                async with way.session.get(
                    target, allow_redirects=False, headers=conditions, proxy=way.proxy
                ) as response:
                    answer = await self._answer(target, response, deadline, conditions, obey=obey)
            finally:
                way.places.give_back()
            if isinstance(answer, Fetched):
                return answer
            target = answer
        raise FetchError("redirect_loop", f"more than {self._settings.max_redirects} redirects")

    async def _answer(
        self,
        url: URL,
        response: aiohttp.ClientResponse,
        deadline: Deadline,
        conditions: Mapping[str, str],
        *,
        obey: bool,
    ) -> Fetched | URL:
        """What a response brings: an image, that there is no newer one, or where it is."""
        headers = response.headers
        if response.status in _REDIRECTS and "Location" in headers:
            return _redirected(url, headers["Location"])
        etag, last_modified = _header(headers, "ETag"), _header(headers, "Last-Modified")
        if response.status == 304 and conditions:
            return Fetched(None, etag, last_modified)
        _check_status(response)
        _check_encoding(headers)
        if obey and self._settings.respect_x_robots_tag:
            self._check_robots_tag(headers, etag)
        return Fetched(await self._body(response, deadline), etag, last_modified)

    def _check_robots_tag(self, headers: CIMultiDictProxy[str], etag: str | None) -> None:
        tags = headers.getall("X-Robots-Tag", ())
        refused = robots.refusal(tags, self._settings.product) if tags else None
        if refused is not None:
            raise FetchError("robots_disallowed", f"X-Robots-Tag: {refused}", etag=etag)

    async def _ask_robots_txt(self, url: URL, deadline: Deadline) -> None:
        """Raise FetchError when the host's robots.txt forbids the URL, or cannot be had.

        It is fetched once in the life of this client; while it cannot be had, nothing of the
        host may be (RFC 9309, 2.3.1.4).
        """
        origin = str(url.origin())
        task = self._rules.get(origin)
        if task is None or (task.done() and task.exception() is not None):
            task = self._rules[origin] = asyncio.create_task(self._robots_txt(url.origin()))
        try:
            rules = await asyncio.shield(task)
        except FetchError as error:
            raise FetchError(error.status, f"robots.txt: {error.detail}", error.retry_after) from (
                error
            )
        if not rules.allow(str(url), self._settings.product):
            raise FetchError("robots_disallowed", "refused by robots.txt")

    async def _robots_txt(self, origin: URL) -> robots.Rules:
        try:
            with self._deadlines.within(self._settings.timeout_s) as deadline:
                fetched = await self._follow(
                    origin.with_path("/robots.txt"), deadline, None, obey=False
                )
        except FetchError as error:
            if error.status.startswith("http_4") or error.status == "truncated_body":
                return robots.Rules("")  # there is none
            raise
        except aiohttp.ClientError as error:
            raise _explain(error) from error
        except TimeoutError:
            raise self._too_late(deadline) from None
        text = (fetched.data or b"")[:_ROBOTS_TXT_BYTES].decode(errors="replace")
        return robots.Rules(text)

    def _way_to(self, url: URL) -> _Way:
        origin = url.scheme, url.raw_authority
        way = self._ways.get(origin)
        if way is None:
            session, proxy = self._session_for(url)
            host = f"{url.host}:{url.port}"
            places = self._places.setdefault(host, HostSemaphore(self._settings.max_per_host))
            way = self._ways[origin] = _Way(session, proxy, places)
        return way

    def _session_for(self, url: URL) -> tuple[aiohttp.ClientSession, str | None]:
        """The session for a URL, and the proxy to go by.

        Hosts that the catalog names are reached by the unguarded session. So is the proxy,
        which looks names up by itself: what is left to check then are literal addresses.
        """
        if url.scheme not in ("http", "https"):
            raise FetchError("bad_url", f"cannot fetch {url.scheme}://")
        if url.user is not None or url.password is not None:
            raise FetchError("bad_url", "user names and passwords in URLs are not sent")
        if not url.host:
            raise FetchError("bad_url", "no host")
        if self._guarded is None or self._trusted is None:
            raise RuntimeError("a HttpClient is used inside `async with`")
        host = f"[{url.host}]" if ":" in url.host else url.host.lower()
        if host in self._allowed or f"{host}:{url.port}" in self._allowed:
            return self._trusted, None
        if self._settings.proxy is None:
            return self._guarded, None
        if _is_internal(url.host):
            raise FetchError("blocked_address", f"{url.host} is internal")
        return self._trusted, self._settings.proxy

    async def _body(self, response: aiohttp.ClientResponse, deadline: Deadline) -> bytes:
        limit = self._max_bytes
        declared = response.content_length
        if declared is not None and declared > limit:
            raise FetchError("too_large", f"{declared} bytes are declared")
        pieces: list[bytes] = []
        size = 0
        started = time.monotonic()
        while piece := await response.content.readany():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise FetchError("too_large", f"more than {limit} bytes")
            deadline.hear(self._settings.read_timeout_s)
            self._check_rate(size, deadline.heard_at - started)
        if not size:
            raise FetchError("truncated_body", "the body is empty")
        return b"".join(pieces)

    def _check_rate(self, size: int, seconds: float) -> None:
        least = self._settings.min_bytes_per_second
        if seconds > self._settings.read_timeout_s and size < least * seconds:
            raise FetchError(
                "timeout", f"{size} bytes in {seconds:.0f} s, less than {least:g} bytes/s"
            )


async def _wait_for_place(places: HostSemaphore, deadline: Deadline) -> None:
    """Take one of the few places at a host; waiting for it does not count as fetching."""
    now = asyncio.get_running_loop().time
    left = deadline.at - now()
    deadline.at = math.inf
    await places.wait()
    deadline.at = now() + left


# URLs that need none of the care below: a plain name, a path without dots at a segment's start.
_PLAIN = re.compile(r"(https?://[a-z0-9.-]+(?::[0-9]{1,5})?)((?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+)")


def _parsed(url: str, relative_to: str = "") -> URL:
    """A URL with its path and query as they were written.

    yarl would decode escapes that need not be there, which breaks signed URLs; only what no
    URL may hold is escaped.
    """
    try:
        plain = _PLAIN.fullmatch(url)
        if plain is not None:
            return _origin(plain[1]).with_path(plain[2], encoded=True)
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


@functools.lru_cache(maxsize=2048)
def _origin(text: str) -> URL:
    return URL(text, encoded=True)


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


def _check_encoding(headers: CIMultiDictProxy[str]) -> None:
    """Refuse compressed bodies: none was asked for, and a small one may unfold into gigabytes."""
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise FetchError(
            "unexpected_encoding", f"the body is packed by {plain_text(encoding)[:40]}"
        )


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


def _header(headers: CIMultiDictProxy[str], name: str) -> str | None:
    value = headers.get(name)
    return plain_text(value) if value is not None else None


def _explain(error: aiohttp.ClientError) -> FetchError:
    """The status of an error of aiohttp's; the order matters, they derive from each other."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return FetchError("dns_error", str(error.os_error))
    if isinstance(error, aiohttp.ClientSSLError):
        return FetchError("tls_error", str(error))
    if isinstance(error, aiohttp.ClientConnectorError):
        # With several addresses aiohttp folds their errors into one text.
        blocked = isinstance(error.os_error, BlockedAddressError) or (
            "blocked address" in str(error.os_error)
        )
        return FetchError("blocked_address" if blocked else "connection_error", str(error.os_error))
    if isinstance(error, aiohttp.ServerTimeoutError):
        return FetchError("timeout", str(error))
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError("bad_url", str(error))
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchError("truncated_body", str(error))
    if isinstance(error, aiohttp.ClientResponseError):
        return FetchError("protocol_error", f"{type(error).__name__}: {error.message}"[:200])
    return FetchError("connection_error", f"{type(error).__name__}: {error}")


def _is_internal(host: str) -> bool:
    """Whether a URL's host is an address, or a spelling of one, that is not public."""
    try:
        return not is_public(host)
    except ValueError:
        pass
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    # What inet_aton takes for an address: 127.1, 0x7f.1, 2130706433.
    return all(re.fullmatch(r"\d+|0x[0-9a-f]*", part) for part in name.split("."))


def host_of(url: str) -> str:
    """What politeness is counted by: host and port, '' for a local path or no URL at all."""
    scheme, separator, rest = url.partition("://")
    return _host_of_origin(f"{scheme}://{rest.partition('/')[0]}") if separator else ""


@functools.lru_cache(maxsize=2048)
def _host_of_origin(origin: str) -> str:
    try:
        parts = urlsplit(origin)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        return f"{(parts.hostname or '').rstrip('.')}:{port}"
    except ValueError:
        return ""
