"""Closes connections that neither send a request nor read a response.

uvicorn itself waits for them forever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

# The key of the connection in the state of a request's scope.
CONNECTION = "imgsim_connection"


# Far above every head; the first part of a body may arrive with it.
_MAX_HEAD_BYTES = 1 << 20


class Connection(asyncio.Protocol):
    """An HTTP connection that has so many seconds to send the head of its next request.

    As many seconds without reading anything of a response close it, too.

    It forwards everything to uvicorn's own protocol. Between two requests, uvicorn's keep-alive
    timeout counts until the first byte of the next one.
    """

    def __init__(
        self, seconds: float, config: Config, app_state: dict[str, Any], **more: Any
    ) -> None:
        state = {**app_state, CONNECTION: self}
        self._inner: Any = AutoHTTPProtocol(config=config, app_state=state, **more)  # type: ignore[call-arg]
        self._seconds = seconds
        # uvloop's transports do not derive from asyncio's.
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None
        self._active = 0
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first request."""
        self._transport = transport
        self._wait()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Start to wait for the rest of a head, unless a request is being answered."""
        if not self._active:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self.abort()
                return
            if self._timer is None:
                self._wait()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Forward the end of what the client sends."""
        closes: bool | None = self._inner.eof_received()
        return closes

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self._stop_watching()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Watch whether the client reads what is left."""
        self._watch_reader()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Forward that the client has read."""
        self._stop_watching()
        self._inner.resume_writing()

    def request_started(self) -> None:
        """A head is complete."""
        self._active += 1
        self._head_bytes = 0
        self._stop_waiting()

    def request_finished(self) -> None:
        """A request is answered."""
        self._active -= 1

    def abort(self) -> None:
        """Close the connection at once, without sending what is left."""
        if self._transport is not None:
            self._transport.abort()

    def _watch_reader(self) -> None:
        self._stop_watching()
        unread = self._transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._reader = loop.call_later(self._seconds, self._check_reader, unread)

    def _check_reader(self, unread_before: int) -> None:
        if self._transport.get_write_buffer_size() >= unread_before:
            self.abort()
        else:
            self._watch_reader()

    def _stop_watching(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Heads:
    """The outermost application: tells a connection which of its requests are complete."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        connection: Connection | None = scope.get("state", {}).get(CONNECTION)
        if connection is None:
            await self._app(scope, receive, send)
            return
        connection.request_started()
        try:
            await self._app(scope, receive, send)
        finally:
            connection.request_finished()
