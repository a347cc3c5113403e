"""Who may ask what: host names, tokens, requests that other sites cause, headers of responses.

A web page that a person happens to visit can send requests to this service from the person's
browser, also through a name that it lets point to 127.0.0.1. Hosts are therefore checked, and
requests that change something are taken from the service's own pages, or from programs, only.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imgsim_assets.service.settings import ServeSettings, is_loopback

COOKIE = "imgsim_token"
LOGIN = "/login"
LOGOUT = "/logout"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# What a client may have without a token: health for a load balancer, and the way to log in.
_OPEN_PATHS = ("/healthz", LOGIN)
_OPEN_FOLDERS = ("/static/",)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Of responses that may hold something of the store; a handler may set another value.
_NO_STORE = "no-store"


class Security:
    """Middleware that refuses a request before anything of it is read.

    Args:
        app: The application.
        settings: Its token and its names.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings
        self._allowed = {host.lower() for host in settings.allowed_hosts}
        self._hosts = {settings.host.lower(), *self._allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", _NO_STORE)
            await send(message)

        refusal = self._refusal(scope)
        app = refusal if refusal is not None else self._app
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_own(host):
            return _problem(
                421,
                f"host {host[:200]!r} is not a name of this service; start it with "
                "--allowed-host NAME to allow one",
            )
        if scope["method"] not in _SAFE_METHODS and not self._is_same_site(headers, host):
            return _problem(403, "another site caused this request, which changes something")
        if not self._is_open(_path(scope)) and not has_token(headers, self._settings):
            if "text/html" in headers.get("accept", ""):
                return RedirectResponse(f"{scope.get('root_path', '')}{LOGIN}", 303)
            response = _problem(401, "send the token as 'Authorization: Bearer TOKEN'")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        return None

    def _is_own(self, host: str) -> bool:
        """Whether a Host header names this service. Nobody can let an address point elsewhere."""
        name = _host_name(host)
        if name is None:
            return False
        return name in self._hosts or is_loopback(name) or _is_address(name)

    def _is_same_site(self, headers: Headers, host: str) -> bool:
        """Whether a request comes from a page of this service, or from a program.

        A browser says where a request comes from, either in Sec-Fetch-Site or in Origin.
        """
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        origin = headers.get("origin")
        if origin is None:
            return True
        try:
            origin_host = urlsplit(origin).netloc
        except ValueError:
            return False
        return origin_host == host or _host_name(origin_host) in self._allowed

    @staticmethod
    def _is_open(path: str) -> bool:
        return path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS)


def has_token(headers: Headers, settings: ServeSettings) -> bool:
    """Whether a request shows the token, in a header or as the cookie of the login page."""
    if settings.token is None:
        return True
    token = settings.token.get_secret_value()
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and is_equal(shown.strip(), token):
        return True
    cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    return is_equal(cookie, cookie_value(token))


def cookie_value(token: str) -> str:
    """What the cookie holds: proof of the token, and not the token itself."""
    return hmac.new(token.encode(), b"imgsim serve: cookie", hashlib.sha256).hexdigest()


def is_equal(shown: str, expected: str) -> bool:
    """Compare secrets in a time that does not depend on where they differ."""
    return hmac.compare_digest(shown.encode(), expected.encode())


def reviewer_of(headers: Headers, settings: ServeSettings) -> str | None:
    """The name of the person, as a proxy passes it; None if none is configured or passed."""
    if settings.reviewer_header is None:
        return None
    name = headers.get(settings.reviewer_header, "").strip()
    # Bytes of a header are read as Latin-1, and proxies send UTF-8.
    with contextlib.suppress(UnicodeError):
        name = name.encode("latin-1").decode()
    return name or None


def _host_name(host: str) -> str | None:
    """The name or address of a Host header, without its port; None if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _path(scope: Scope) -> str:
    """The path of a request below the root path."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _problem(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status)
