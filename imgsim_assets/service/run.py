"""Runs the application until it is told to stop."""

from __future__ import annotations

import contextlib
import os
import socket
from functools import partial
from typing import Any

import uvicorn

from imgsim_assets.errors import SettingsError
from imgsim_assets.progress import Log
from imgsim_assets.service.app import create_app
from imgsim_assets.service.connection import Connection, Heads
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.storage.store import Store

_BACKLOG = 512


def serve(store: Store, settings: ServeSettings, *, log: Log) -> None:
    """Serve a store until SIGTERM or SIGINT; requests that are running are answered.

    Args:
        store: Where the results are.
        settings: How they are served.
        log: Receives the address.

    Raises:
        SettingsError: The address cannot be listened on.
    """
    with listen(settings) as listener:
        log(f"serving {store.url} at {address(settings, listener.getsockname()[1])}")
        # Ctrl-C is how a person stops it; uvicorn passes it on once requests are answered.
        with contextlib.suppress(KeyboardInterrupt):
            create_server(store, settings).run(sockets=[listener])


def create_server(store: Store, settings: ServeSettings) -> uvicorn.Server:
    """The HTTP server of a store, with the limits of the settings."""
    protocol: Any = partial(Connection, settings.header_timeout_s)
    return uvicorn.Server(
        uvicorn.Config(
            Heads(create_app(store, settings)),
            http=protocol,
            ws="none",
            limit_concurrency=settings.max_connections,
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
            server_header=False,
            access_log=False,
            log_level="warning",
        )
    )


def address(settings: ServeSettings, port: int) -> str:
    """The URL of the service on this machine."""
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}{settings.root_path}/"


def listen(settings: ServeSettings) -> socket.socket:
    """A socket that listens on the address of the settings.

    Raises:
        SettingsError: Another process does, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"port: {settings.host} port {settings.port} cannot be listened on "
            f"({os.strerror(error.errno) if error.errno else error}); set another one"
        ) from error
