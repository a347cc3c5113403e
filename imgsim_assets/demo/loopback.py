"""Requests to servers of this machine."""

from __future__ import annotations

import urllib.request
from http.client import HTTPResponse
from typing import cast

# urlopen uses the proxies of the environment, at which no server of this machine answers.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_loopback(request: str | urllib.request.Request, *, timeout: float) -> HTTPResponse:
    """Send an HTTP request to a server of this machine, whatever proxies the environment names.

    Args:
        request: a URL, or a request.
        timeout: of the connection, and of each read, in seconds.

    Returns:
        The response, to be closed.

    Raises:
        OSError: there is no answer, or its status is an error (`urllib.error.HTTPError`).
    """
    return cast("HTTPResponse", _OPENER.open(request, timeout=timeout))
