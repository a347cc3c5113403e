"""An HTTP client for images that turns every error into a status."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDictProxy
from yarl import URL

from imgsim_assets.download.fetched import Fetched, Validators
from imgsim_assets.download.http import robots
from imgsim_assets.download.http.address import guarded_socket
from imgsim_assets.download.http.deadline import Deadline, Deadlines
from imgsim_assets.download.http.host_semaphore import HostSemaphore
from imgsim_assets.download.http.responses import check_response, client_error, header_text
from imgsim_assets.download.http.urls import is_internal, parse_url, redirect_target
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import FetchError

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Enough for any image host, and a bound on the memory that a server can make the client use.
_MAX_HEADER_BYTES = 16_384
# A request without activity for longer than this is idle: its server is slow, and may be dead.
_IDLE_SECONDS = 1.0
# The minimum that RFC 9309, 2.5 requires a crawler to parse.
_MAX_ROBOTS_TXT_BYTES = 500 * 1024


@dataclass(frozen=True, slots=True)
class _Route:
    """How requests to one origin are sent."""

    session: aiohttp.ClientSession
    proxy: str | None
    semaphore: HostSemaphore


class _Connector(aiohttp.TCPConnector):
    """Suspends the idle deadline while it connects, which has a timeout of its own."""

    def __init__(self, deadlines: Deadlines, **options: Any) -> None:
        super().__init__(limit=0, ttl_dns_cache=60, **options)
        self._deadlines = deadlines

    async def _create_connection(self, *arguments: Any, **options: Any) -> ResponseHandler:
        deadline = self._deadlines.current()
        if deadline is None:
            return await super()._create_connection(*arguments, **options)
        now = asyncio.get_running_loop().time
        left = deadline.idle_deadline - now()
        deadline.idle_deadline = math.inf
        connection = await super()._create_connection(*arguments, **options)
        deadline.idle_deadline = now() + left
        return connection


class HttpClient:
    """Fetches images from public web addresses and from the hosts that a catalog allows.

    Use it as an async context manager within one event loop.
    """

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._allowed_hosts = frozenset(settings.allowed_hosts)
        self._max_bytes = settings.max_bytes
        self._proxy = settings.proxy.get_secret_value() if settings.proxy else None
        self._guarded: aiohttp.ClientSession | None = None
        self._unguarded: aiohttp.ClientSession | None = None
        self._deadlines = Deadlines()
        self._semaphores: dict[str, HostSemaphore] = {}
        self._routes: dict[tuple[str, str], _Route] = {}
        self._robots_txt: dict[str, asyncio.Task[robots.RobotsTxt]] = {}

    async def __aenter__(self) -> Self:
        if self._settings.respect_robots_txt:
            robots.require_parser()
        self._guarded = self._session(_Connector(self._deadlines, socket_factory=guarded_socket()))
        self._unguarded = self._session(_Connector(self._deadlines))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._robots_txt.values():
            task.cancel()
        await asyncio.gather(*self._robots_txt.values(), return_exceptions=True)
        for session in (self._guarded, self._unguarded):
            if session is not None:
                await session.close()

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            # No proxy, cookies or credentials from the environment, and no decompression: a
            # small body could decompress into gigabytes.
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            headers={
                "User-Agent": self._settings.user_agent_header,
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",
            },
            # `Deadlines` checks for idle servers: aiohttp's timer for every chunk takes a
            # twentieth of the time of a request.
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._settings.connect_timeout_s, sock_read=None
            ),
        )

    async def fetch(self, url: str, cached: Validators | None = None) -> Fetched:
        """GET an image, or only what is newer than the cached version, and follow redirects.

        Raises:
            FetchError: for every failure.
        """
        try:
            with self._deadlines.start(self._settings.timeout_s) as deadline:
                return await self._follow(parse_url(url), deadline, cached)
        except aiohttp.ClientError as error:
            raise client_error(error) from error
        except UnicodeError as error:  # a host name that cannot be looked up
            raise FetchError("bad_url", str(error)) from error
        except TimeoutError:
            raise self._timeout_error(deadline) from None

    def idle_count(self) -> int:
        """How many requests have been idle for a second, or have waited a second for a slot.

        With `respect_robots_txt` this includes requests for a robots.txt and those waiting for it.
        """
        return self._deadlines.idle_count(_IDLE_SECONDS)

    def _timeout_error(self, deadline: Deadline) -> FetchError:
        if deadline.idle_deadline < deadline.total_deadline:
            return FetchError("timeout", f"no data for {self._settings.read_timeout_s:g} s")
        return FetchError("timeout", f"not finished in {self._settings.timeout_s:g} s")

    async def _follow(
        self,
        target: URL,
        deadline: Deadline,
        cached: Validators | None,
        *,
        check_robots: bool = True,
    ) -> Fetched:
        """GET a URL and its redirects; `check_robots=False` for the request of a robots.txt."""
        conditions = cached.request_headers if cached is not None else {}
        for _ in range(self._settings.max_redirects + 1):
            deadline.idle_deadline = math.inf
            route = self._route_for(target)
            if check_robots and self._settings.respect_robots_txt:
                await self._check_robots_txt(target)
            if not route.semaphore.try_acquire():
                await _wait_for_slot(route.semaphore, deadline)
            deadline.touch(self._settings.read_timeout_s)
            try:
                async with route.session.get(
                    target, allow_redirects=False, headers=conditions, proxy=route.proxy
                ) as response:
                    result = await self._read_response(
                        target, response, deadline, conditions, check_robots=check_robots
                    )
            finally:
                route.semaphore.release()
            if isinstance(result, Fetched):
                return result
            target = result
        raise FetchError("redirect_loop", f"more than {self._settings.max_redirects} redirects")

    async def _read_response(
        self,
        url: URL,
        response: aiohttp.ClientResponse,
        deadline: Deadline,
        conditions: Mapping[str, str],
        *,
        check_robots: bool,
    ) -> Fetched | URL:
        """The image, or the URL that the response redirects to."""
        headers = response.headers
        if response.status in _REDIRECTS and "Location" in headers:
            return redirect_target(url, headers["Location"])
        etag, last_modified = header_text(headers, "ETag"), header_text(headers, "Last-Modified")
        if response.status == 304 and conditions:
            return Fetched(None, etag, last_modified)
        check_response(response)
        if check_robots and self._settings.respect_x_robots_tag:
            self._check_robots_tag(headers, etag)
        return Fetched(await self._read_body(response, deadline), etag, last_modified)

    async def _read_body(self, response: aiohttp.ClientResponse, deadline: Deadline) -> bytes:
        limit, minimum_rate = self._max_bytes, self._settings.min_bytes_per_second
        declared = response.content_length
        if declared is not None and declared > limit:
            raise FetchError("too_large", f"{declared} bytes are declared")
        chunks: list[bytes] = []
        size = 0
        started = time.monotonic()
        while chunk := await response.content.readany():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise FetchError("too_large", f"more than {limit} bytes")
            deadline.touch(self._settings.read_timeout_s)
            seconds = deadline.last_activity - started
            if seconds > self._settings.read_timeout_s and size < minimum_rate * seconds:
                detail = f"{size} bytes in {seconds:.0f} s, less than {minimum_rate:g} bytes/s"
                raise FetchError("timeout", detail)
        if not size:
            raise FetchError("truncated_body", "the body is empty")
        return b"".join(chunks)

    # ---- robots rules ---------------------------------------------------------------

    def _check_robots_tag(self, headers: CIMultiDictProxy[str], etag: str | None) -> None:
        tags = headers.getall("X-Robots-Tag", ())
        if not tags:
            return
        directive = robots.refusing_directive(tags, self._settings.product_token)
        if directive is not None:
            raise FetchError("robots_disallowed", f"X-Robots-Tag: {directive}", etag=etag)

    async def _check_robots_txt(self, url: URL) -> None:
        """Raise FetchError when the host's robots.txt disallows the URL or is unreachable.

        The file is fetched once in the life of the client. While it is unreachable, nothing of
        its host may be fetched (RFC 9309, 2.3.1.4).
        """
        origin = str(url.origin())
        task = self._robots_txt.get(origin)
        if task is None or (task.done() and task.exception() is not None):
            task = self._robots_txt[origin] = asyncio.create_task(
                self._fetch_robots_txt(url.origin())
            )
        try:
            rules = await asyncio.shield(task)
        except FetchError as error:
            raise FetchError(error.status, f"robots.txt: {error.detail}", error.retry_after) from (
                error
            )
        if not rules.allows(str(url), self._settings.product_token):
            raise FetchError("robots_disallowed", "disallowed by robots.txt")

    async def _fetch_robots_txt(self, origin: URL) -> robots.RobotsTxt:
        try:
            with self._deadlines.start(self._settings.timeout_s) as deadline:
                fetched = await self._follow(
                    origin.with_path("/robots.txt"), deadline, None, check_robots=False
                )
        except FetchError as error:
            if error.status.startswith("http_4") or error.status == "truncated_body":
                return robots.RobotsTxt("")  # the host has none
            raise
        except aiohttp.ClientError as error:
            raise client_error(error) from error
        except TimeoutError:
            raise self._timeout_error(deadline) from None
        text = (fetched.data or b"")[:_MAX_ROBOTS_TXT_BYTES].decode(errors="replace")
        return robots.RobotsTxt(text)

    # ---- routes ---------------------------------------------------------------------

    def _route_for(self, url: URL) -> _Route:
        origin = url.scheme, url.raw_authority
        route = self._routes.get(origin)
        if route is None:
            session, proxy = self._session_for(url)
            host = f"{url.host}:{url.port}"
            semaphore = self._semaphores.setdefault(
                host, HostSemaphore(self._settings.max_per_host)
            )
            route = self._routes[origin] = _Route(session, proxy, semaphore)
        return route

    def _session_for(self, url: URL) -> tuple[aiohttp.ClientSession, str | None]:
        """The session and the proxy for a URL.

        Allowed hosts are reached by the unguarded session. So is the proxy, which resolves
        names itself: literal addresses are all that can be checked before it.
        """
        if url.scheme not in ("http", "https"):
            raise FetchError("bad_url", f"cannot fetch {url.scheme}://")
        if url.user is not None or url.password is not None:
            raise FetchError("bad_url", "user names and passwords in URLs are not sent")
        if not url.host:
            raise FetchError("bad_url", "no host")
        if self._guarded is None or self._unguarded is None:
            raise RuntimeError("an HttpClient is used inside `async with`")
        host = f"[{url.host}]" if ":" in url.host else url.host.lower()
        if host in self._allowed_hosts or f"{host}:{url.port}" in self._allowed_hosts:
            return self._unguarded, None
        if self._proxy is None:
            return self._guarded, None
        if is_internal(url.host):
            raise FetchError("blocked_address", f"{url.host} is internal")
        return self._unguarded, self._proxy


async def _wait_for_slot(semaphore: HostSemaphore, deadline: Deadline) -> None:
    """Acquire a slot; the time of waiting for it does not count towards the deadline."""
    now = asyncio.get_running_loop().time
    left = deadline.total_deadline - now()
    deadline.total_deadline = math.inf
    await semaphore.wait()
    deadline.total_deadline = now() + left
