"""How requests to each origin are sent: over which session, with which headers and certificates."""

from __future__ import annotations

import functools
import math
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from imgsim_assets.download.http.address import guarded_socket
from imgsim_assets.download.http.deadline import Deadlines
from imgsim_assets.download.http.host_semaphore import HostSemaphore
from imgsim_assets.download.http.lenient import SocketFactory
from imgsim_assets.download.http.urls import is_internal
from imgsim_assets.download.request_settings import HostSettings, plain_headers
from imgsim_assets.download.scheduling.host_shares import HostShares
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.download.status import FetchError
from imgsim_assets.errors import SettingsError

T = TypeVar("T")
# A bound on the memory that a server can make aiohttp use; larger headers are read leniently.
_MAX_HEADER_BYTES = 16_384
_NO_SETTINGS = HostSettings()


@dataclass(slots=True)
class Route:
    """How requests to one origin are sent.

    Attributes:
        session: sends the requests.
        proxy: its URL, or None.
        tls: the certificates that are accepted, as aiohttp's argument `ssl`.
        host: `host:port`, by which requests are limited, whatever the scheme.
        semaphore: limits the requests to the host.
        headers: of every request, or None.
        listed_headers: of requests for a URL that the catalog lists, or None.
        socket_factory: makes the sockets of a request without a session.
        lenient_responses: how many of the last responses only the lenient reader could read.
    """

    session: aiohttp.ClientSession
    proxy: str | None
    tls: ssl.SSLContext | bool
    host: str
    semaphore: HostSemaphore
    headers: Mapping[str, str] | None
    listed_headers: Mapping[str, str] | None
    socket_factory: SocketFactory
    lenient_responses: int = 0


class _Connector(aiohttp.TCPConnector):
    """Suspends the idle deadline while it connects, and reuses no connection with surplus bytes.

    Connecting has a timeout of its own.
    """

    def __init__(self, deadlines: Deadlines, read_timeout_s: float, **options: Any) -> None:
        super().__init__(limit=0, ttl_dns_cache=60, **options)
        self._deadlines = deadlines
        self._read_timeout_s = read_timeout_s

    async def connect(self, *arguments: Any, **options: Any) -> Any:
        deadline = self._deadlines.current()
        if deadline is not None:
            deadline.idle_deadline = math.inf
        connection = await super().connect(*arguments, **options)
        while connection.protocol is not None and connection.protocol.should_close:
            # It has received bytes since its last response, which are not the next one.
            connection.close()
            connection = await super().connect(*arguments, **options)
        if deadline is not None:
            deadline.touch(self._read_timeout_s)
        return connection


class Routes:
    """The routes of one client, which holds their sessions open between `open` and `close`."""

    def __init__(
        self, settings: DownloadSettings, deadlines: Deadlines, shares: HostShares
    ) -> None:
        self._settings = settings
        self._deadlines = deadlines
        self._allowed_hosts = dict.fromkeys(settings.allowed_hosts, True)
        self._proxy = settings.proxy.get_secret_value() if settings.proxy else None
        self._guarded: aiohttp.ClientSession | None = None
        self._unguarded: aiohttp.ClientSession | None = None
        self._shares = shares
        self._routes: dict[tuple[str, str], Route] = {}
        self.default_headers = {
            "User-Agent": settings.user_agent_header,
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",
        }
        if settings.accept_language is not None:
            self.default_headers["Accept-Language"] = settings.accept_language

    async def open(self) -> None:
        """Open the sessions.

        Raises:
            SettingsError: `ca_file` is no file with certificates.
        """
        if self._settings.ca_file is not None:
            _ = self.verified_tls
        guarded = _Connector(
            self._deadlines, self._settings.read_timeout_s, socket_factory=guarded_socket()
        )
        self._guarded = self._session(guarded)
        self._unguarded = self._session(_Connector(self._deadlines, self._settings.read_timeout_s))

    async def close(self) -> None:
        """Close the sessions."""
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
            headers=self.default_headers,
            # `Deadlines` checks for idle servers: aiohttp's timer for every chunk takes a
            # twentieth of the time of a request.
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._settings.connect_timeout_s, sock_read=None
            ),
        )

    def route_for(self, url: URL) -> Route:
        """The route of a URL.

        Raises:
            FetchError: nothing may be sent to this URL.
        """
        origin = url.scheme, url.raw_authority
        route = self._routes.get(origin)
        if route is None:
            route = self._routes[origin] = self._make_route(url)
        return route

    def _make_route(self, url: URL) -> Route:
        session, proxy = self._session_for(url)
        host = _setting_of(url, self._settings.hosts, _NO_SETTINGS)
        headers = plain_headers(host.headers)
        named = {name.lower() for name in headers}
        listed = {
            name: value
            for name, value in plain_headers(self._settings.headers).items()
            if name.lower() not in named
        } | headers
        name = f"{url.host}:{url.port}"
        tls: ssl.SSLContext | bool = host.verify_tls
        if host.verify_tls and self._settings.ca_file is not None:
            tls = self.verified_tls
        return Route(
            session=session,
            proxy=proxy,
            tls=tls,
            host=name,
            semaphore=self._shares.semaphore(name),
            headers=headers or None,
            listed_headers=listed or None,
            socket_factory=guarded_socket() if session is self._guarded else _plain_socket,
        )

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
        if _setting_of(url, self._allowed_hosts, False):
            return self._unguarded, None
        if self._proxy is None:
            return self._guarded, None
        if is_internal(url.host):
            raise FetchError("blocked_address", f"{url.host} is internal")
        return self._unguarded, self._proxy

    def tls_context(self, route: Route) -> ssl.SSLContext:
        """The context of a request without a session."""
        return self.verified_tls if route.tls else self._unverified_tls

    @functools.cached_property
    def verified_tls(self) -> ssl.SSLContext:
        """The usual certificate authorities, and those of `ca_file`."""
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        path = self._settings.ca_file
        if path is not None:
            try:
                context.load_verify_locations(path)
            except OSError as error:
                raise SettingsError(f"ca_file: {path} has no certificates: {error}") from None
        return context

    @functools.cached_property
    def _unverified_tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


def _plain_socket(info: Any) -> socket.socket:
    made = socket.socket(info[0], info[1], info[2])
    made.setblocking(False)
    return made


def _setting_of(url: URL, by_host: Mapping[str, T], default: T) -> T:
    """What a mapping by `host` or `host:port` has for a URL."""
    host = (url.raw_host or "").lower()
    host = f"[{host}]" if ":" in host else host
    return by_host.get(f"{host}:{url.port}", by_host.get(host, default))
