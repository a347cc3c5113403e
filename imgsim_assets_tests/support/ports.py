"""Ports for servers that cannot choose one themselves."""

from __future__ import annotations

import secrets
import socket

# Below the ports that systems give to sockets by themselves, and above those that Ray takes.
_FIRST, _COUNT = 24_000, 8_000
_given: set[int] = set()


def free_port() -> int:
    """A port that nothing uses, and that no connection is given before a server takes it."""
    while True:
        port = _FIRST + secrets.randbelow(_COUNT)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("", port))
        except OSError:
            return False
    return True
