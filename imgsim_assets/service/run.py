"""Runs the application until it is told to stop."""

from __future__ import annotations

import socket

import uvicorn

from imgsim_assets.errors import SettingsError
from imgsim_assets.progress import Log
from imgsim_assets.service.app import create_app
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
    listener = _listen(settings)
    config = uvicorn.Config(
        create_app(store, settings),
        root_path=settings.root_path,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        server_header=False,
        access_log=False,
        log_level="warning",
        ws="none",
    )
    with listener:
        log(f"serving {store.url} at {address(settings, listener.getsockname()[1])}")
        uvicorn.Server(config).run(sockets=[listener])


def address(settings: ServeSettings, port: int) -> str:
    """The URL of the service on this machine."""
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{port}{settings.root_path}/"


def _listen(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"port: {settings.host} port {settings.port} cannot be listened on "
            f"({error.strerror or error}); another port is set with --port"
        ) from error
