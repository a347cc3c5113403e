"""An HTTP client for images that turns every error into a status."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Awaitable, Mapping
from typing import NamedTuple, Self, TypeVar

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from imgsim_assets.download.fetched import Fetched, Validators, usable_validator
from imgsim_assets.download.http import robots
from imgsim_assets.download.http.content_encoding import unpack
from imgsim_assets.download.http.cookies import HostCookies
from imgsim_assets.download.http.deadline import Deadline, Deadlines
from imgsim_assets.download.http.lenient import LenientResponse, lenient_get
from imgsim_assets.download.http.responses import check_status, client_error, os_error
from imgsim_assets.download.http.routes import Route, Routes
from imgsim_assets.download.http.shared_robots import SharedRobotsTxt
from imgsim_assets.download.http.urls import is_same_site, parse_url, redirect_target
from imgsim_assets.download.scheduling.host_shares import HostShares
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import FetchError

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# A page of such a status may set the cookie with which the next request succeeds.
_ASKS_FOR_COOKIES = frozenset({401, 403, 503})
# A request without activity for longer than this is idle: its server is slow, and may be dead.
_IDLE_SECONDS = 1.0
# Longer delays between two requests are taken for a refusal.
_MAX_CRAWL_DELAY_SECONDS = 300.0
# The minimum that RFC 9309, 2.5 requires a crawler to parse.
_MAX_ROBOTS_TXT_BYTES = 500 * 1024


# After so many responses in a row that only the lenient reader reads, it is asked at once.
_MIN_LENIENT_RESPONSES = 3

Response = aiohttp.ClientResponse | LenientResponse
T = TypeVar("T")


class Request(NamedTuple):
    """One request of an image or of a robots.txt, which may be answered by 304."""

    url: URL
    headers: Mapping[str, str] | None
    is_conditional: bool
    is_robots_txt: bool


class HttpClient:
    """Fetches images from public web addresses and from the hosts that a catalog allows.

    Use it as an async context manager within one event loop. `shares` are this run's shares of the
    hosts' limits; by default no other run uses them.
    """

    def __init__(self, settings: DownloadSettings, shares: HostShares | None = None) -> None:
        self._settings = settings
        self._shares = shares or HostShares(settings.max_per_host)
        self._max_bytes = settings.max_bytes
        self._deadlines = Deadlines()
        self._routes = Routes(settings, self._deadlines, self._shares)
        self._cookies = HostCookies() if settings.cookies else None
        self._robots_txt: dict[str, asyncio.Task[robots.RobotsTxt]] = {}
        self._shared_robots_txt: SharedRobotsTxt | None = None
        files, kind = self._shares.files, settings.robots_txt_digest
        if files is not None and kind is not None:
            self._shared_robots_txt = SharedRobotsTxt(files, kind)

    async def __aenter__(self) -> Self:
        if self._settings.respect_robots_txt:
            robots.require_parser()
        await self._routes.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._robots_txt.values():
            task.cancel()
        await asyncio.gather(*self._robots_txt.values(), return_exceptions=True)
        await self._routes.close()

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
        is_robots_txt: bool = False,
    ) -> Fetched:
        """GET a URL and its redirects."""
        listed = target
        conditions = cached.request_headers if cached is not None else {}
        for _ in range(self._settings.max_redirects + 1):
            deadline.idle_deadline = math.inf
            route = self._routes.route_for(target)
            if self._settings.respect_robots_txt and not is_robots_txt:
                await self._check_robots_txt(target, deadline)
            is_listed = not is_robots_txt and (target is listed or is_same_site(listed, target))
            headers = route.listed_headers if is_listed else route.headers
            if conditions or self._cookies is not None:
                headers = self._with_cookies(target, headers) | conditions
            if not route.semaphore.try_acquire():
                await _wait(route.semaphore.wait(), deadline)
            request = Request(target, headers, bool(conditions), is_robots_txt)
            try:
                await _wait(self._shares.wait_for_delay(route.host), deadline)
                result = await self._get(request, route, deadline)
            finally:
                route.semaphore.release()
            if isinstance(result, Fetched):
                return result
            target = result
        raise FetchError("redirect_loop", f"more than {self._settings.max_redirects} redirects")

    def _with_cookies(self, url: URL, headers: Mapping[str, str] | None) -> dict[str, str]:
        """The headers with the cookies that the host has set."""
        own = dict(headers or {})
        cookie = self._cookies.header(_site(url)) if self._cookies is not None else None
        if cookie is not None:
            name = next((name for name in own if name.lower() == "cookie"), "Cookie")
            own[name] = f"{own[name]}; {cookie}" if name in own else cookie
        return own

    async def _get(self, request: Request, route: Route, deadline: Deadline) -> Fetched | URL:
        """Send one request, again where only the lenient reader can read the response."""
        if route.lenient_responses < _MIN_LENIENT_RESPONSES:
            try:
                async with route.session.get(
                    request.url,
                    allow_redirects=False,
                    headers=request.headers,
                    proxy=route.proxy,
                    ssl=route.tls,
                ) as response:
                    result = await self._read_response(request, response, deadline)
            except aiohttp.ClientResponseError:
                if route.proxy is not None:
                    raise
            else:
                if route.lenient_responses:
                    route.lenient_responses = 0
                return result
        deadline.touch(self._settings.connect_timeout_s + self._settings.read_timeout_s)
        try:
            async with lenient_get(
                request.url,
                {**self._routes.default_headers, **(request.headers or {})},
                socket_factory=route.socket_factory,
                tls=self._routes.tls_context(route),
                connect_timeout_s=self._settings.connect_timeout_s,
            ) as lenient:
                result = await self._read_response(request, lenient, deadline)
        except OSError as error:
            raise os_error(error) from error
        route.lenient_responses += 1
        return result

    async def _read_response(
        self, request: Request, response: Response, deadline: Deadline
    ) -> Fetched | URL:
        """The image, or the URL that the response redirects to."""
        headers, status = response.headers, response.status
        if self._cookies is not None and self._asks_for_cookies(
            request.url, response, self._cookies
        ):
            return request.url
        if status in _REDIRECTS and "Location" in headers:
            return redirect_target(request.url, headers["Location"])
        etag = usable_validator(headers.get("ETag"))
        last_modified = usable_validator(headers.get("Last-Modified"))
        if status != 200:
            if status == 304 and request.is_conditional:
                return Fetched(None, etag, last_modified)
            check_status(status, response.reason, headers)
        if "X-Robots-Tag" in headers and not request.is_robots_txt:
            self._check_robots_tag(headers, etag)
        data = await self._read_body(response, deadline)
        if "Content-Encoding" in headers:
            codings = headers.getall("Content-Encoding")
            data = await asyncio.to_thread(unpack, data, codings, self._max_bytes)
        return Fetched(data, etag, last_modified)

    @staticmethod
    def _asks_for_cookies(url: URL, response: Response, cookies: HostCookies) -> bool:
        """Store the cookies of a response; whether it is a page in place of the image."""
        sent = response.headers.getall("Set-Cookie", ())
        if not sent or not cookies.update(_site(url), sent):
            return False
        is_page = response.headers.get("Content-Type", "").lower().startswith("text/html")
        return is_page if response.status == 200 else response.status in _ASKS_FOR_COOKIES

    async def _read_body(self, response: Response, deadline: Deadline) -> bytes:
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
        if not self._settings.respect_x_robots_tag:
            return
        tags = headers.getall("X-Robots-Tag")
        directive = robots.refusing_directive(tags, self._settings.product_token)
        if directive is not None:
            raise FetchError("robots_disallowed", f"X-Robots-Tag: {directive}", etag=etag)

    async def _check_robots_txt(self, url: URL, deadline: Deadline) -> None:
        """Raise FetchError when the host's robots.txt disallows the URL or is unreachable.

        The file is read once in the life of the client. While it is unreachable, nothing of
        its host may be fetched (RFC 9309, 2.3.1.4).
        """
        origin = str(url.origin())
        task = self._robots_txt.get(origin)
        if task is None or (task.done() and task.exception() is not None):
            task = self._robots_txt[origin] = asyncio.create_task(
                self._fetch_robots_txt(url.origin())
            )
        try:
            rules = await _wait(asyncio.shield(task), deadline)
        except FetchError as error:
            raise FetchError(error.status, f"robots.txt: {error.detail}", error.retry_after) from (
                error
            )
        if not rules.allows(str(url), self._settings.product_token):
            raise FetchError("robots_disallowed", "disallowed by robots.txt")
        delay = rules.delay_s(self._settings.product_token)
        if delay > _MAX_CRAWL_DELAY_SECONDS:
            raise FetchError("robots_disallowed", f"robots.txt: Crawl-delay of {delay:g} s")
        if delay:
            self._shares.set_delay(f"{url.host}:{url.port}", delay)

    async def _fetch_robots_txt(self, origin: URL) -> robots.RobotsTxt:
        ask = functools.partial(self._ask_for_robots_txt, origin)
        if self._shared_robots_txt is None:
            return robots.RobotsTxt(await ask())
        return robots.RobotsTxt(await self._shared_robots_txt.get(str(origin), ask))

    async def _ask_for_robots_txt(self, origin: URL) -> str:
        try:
            with self._deadlines.start(self._settings.timeout_s) as deadline:
                fetched = await self._follow(
                    origin.with_path("/robots.txt"), deadline, None, is_robots_txt=True
                )
        except FetchError as error:
            if error.status.startswith("http_4") or error.status == "truncated_body":
                return ""  # the host has none
            raise
        except aiohttp.ClientError as error:
            raise client_error(error) from error
        except TimeoutError:
            raise self._timeout_error(deadline) from None
        return (fetched.data or b"")[:_MAX_ROBOTS_TXT_BYTES].decode(errors="replace")


def _site(url: URL) -> str:
    """What cookies are kept by: the host, apart for each scheme."""
    return f"{url.scheme}://{url.host}"


async def _wait(turn: Awaitable[T], deadline: Deadline) -> T:
    """Wait for a turn at a host, or its robots.txt, which does not count towards the deadline."""
    now = asyncio.get_running_loop().time
    left = deadline.total_deadline - now()
    deadline.total_deadline = math.inf
    result = await turn
    deadline.total_deadline = now() + left
    return result
