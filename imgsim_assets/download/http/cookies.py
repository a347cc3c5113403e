"""Cookies that are returned to the host that set them, and to no other."""

from __future__ import annotations

from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie

# What a host can make the client store and send.
_MAX_COOKIES = 50
_MAX_COOKIE_BYTES = 4096


class HostCookies:
    """The cookies of each host, without their domain, path and expiry: they last for one run."""

    def __init__(self) -> None:
        self._hosts: dict[str, dict[str, str]] = {}

    def update(self, host: str, headers: Iterable[str]) -> bool:
        """Store the Set-Cookie headers of a response; returns whether a cookie changed."""
        stored = self._hosts.setdefault(host, {})
        before = dict(stored)
        for header in headers:
            is_sendable = header.isascii() and header.isprintable()
            if len(header) > _MAX_COOKIE_BYTES or not is_sendable:
                continue
            try:
                cookies = SimpleCookie(header)
            except CookieError:
                continue
            for name, morsel in cookies.items():
                if name in stored or len(stored) < _MAX_COOKIES:
                    stored[name] = morsel.coded_value
        return stored != before

    def header(self, host: str) -> str | None:
        """The Cookie header of a request to a host; None without cookies."""
        stored = self._hosts.get(host)
        return "; ".join(f"{name}={value}" for name, value in stored.items()) if stored else None
