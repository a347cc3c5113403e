"""Middleware that limits how much a request may send, and how long it may take."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imgsim_assets.service.connection import CONNECTION
from imgsim_assets.service.settings import ServeSettings

_TOO_SLOW = "the request took longer than {:g} s"
_TOO_LARGE = "the body has more than {} bytes"
_TOO_MANY = "too many uploads at the same time; try again in a second"
# The rest of a body that was refused is not read.
_CLOSE = {"Connection": "close"}


class Limits:
    """Refuses bodies that are too large while they arrive, and requests that take too long.

    Args:
        app: The application.
        settings: The limits.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_upload = headers.get("content-type", "").lower().startswith("multipart/")
        limit = self._settings.max_upload_bytes if is_upload else self._settings.max_body_bytes
        request = _Request(self._app, receive, send, limit)
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limit:
            await _refuse(413, _TOO_LARGE.format(limit))(scope, receive, send)
        elif is_upload and self._uploads >= self._settings.max_waiting_encodes:
            await _refuse(503, _TOO_MANY)(scope, receive, send)
        else:
            self._uploads += is_upload
            try:
                await self._answer_in_time(request, scope)
            finally:
                self._uploads -= is_upload

    async def _answer_in_time(self, request: _Request, scope: Scope) -> None:
        seconds = self._settings.request_timeout_s
        try:
            async with asyncio.timeout(seconds) as timeout:
                await request.answer(scope)
        except TimeoutError:
            if not timeout.expired():
                raise
            if request.has_started:
                # The client reads too slowly: the rest cannot be sent.
                if (connection := scope.get("state", {}).get(CONNECTION)) is not None:
                    connection.abort()
                return
            status = 503 if request.is_received else 408
            await _refuse(status, _TOO_SLOW.format(seconds))(scope, request.receive, request.send)


class _Request:
    """A request whose body is counted while it arrives."""

    def __init__(self, app: ASGIApp, receive: Receive, send: Send, limit: int) -> None:
        self._app = app
        self._receive = receive
        self._send = send
        self._limit = limit
        self._bytes = 0
        self.is_received = False
        self.has_started = False

    async def answer(self, scope: Scope) -> None:
        await self._app(scope, self.receive, self.send)

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._bytes += len(message.get("body", b""))
            self.is_received = not message.get("more_body", False)
            if self._bytes > self._limit:
                raise HTTPException(413, _TOO_LARGE.format(self._limit), _CLOSE)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
        await self._send(message)


def _refuse(status: int, detail: str) -> JSONResponse:
    retry = {"Retry-After": "1"} if status == 503 else {}
    return JSONResponse({"detail": detail}, status, _CLOSE | retry)
