"""Reads responses that aiohttp's parser refuses and browsers show.

Examples are bytes behind the announced length, header lines without a colon, and headers of 20 kB.
Every request has a connection of its own, which is closed after the response.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from imgsim_assets.download.status import FetchError

# The limit of Chromium for all headers together.
_MAX_HEAD_BYTES = 256 * 1024
_CHUNK_BYTES = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/\d+(?:\.\d+)?[ \t]+(\d{3})(?:[ \t]+(.*))?", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")
_NO_BODY = frozenset({204, 304})

SocketFactory = Callable[[Any], socket.socket]


class LenientResponse:
    """A response with the attributes of aiohttp's that this package uses."""

    def __init__(
        self, status: int, reason: str, headers: CIMultiDict[str], stream: asyncio.StreamReader
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = CIMultiDictProxy(headers)
        self.content_length = None if _is_chunked(headers) else _content_length(headers)
        self.content = self
        self._stream = stream
        self._remaining = 0 if status in _NO_BODY else self.content_length
        self._is_chunked = _is_chunked(headers) and status not in _NO_BODY
        self._in_chunk = 0

    async def readany(self) -> bytes:
        """The next bytes of the body; none at its end."""
        if self._is_chunked:
            return await self._read_chunked()
        if self._remaining is None:
            return await self._stream.read(_CHUNK_BYTES)
        if not self._remaining:
            return b""
        piece = await self._stream.read(min(self._remaining, _CHUNK_BYTES))
        if not piece:
            raise FetchError("truncated_body", f"{self._remaining} bytes are missing")
        self._remaining -= len(piece)
        return piece

    async def _read_chunked(self) -> bytes:
        if not self._in_chunk:
            self._in_chunk = await self._chunk_size()
            if not self._in_chunk:  # trailers follow, which nobody needs
                self._is_chunked, self._remaining = False, 0
                return b""
        piece = await self._stream.read(min(self._in_chunk, _CHUNK_BYTES))
        if not piece:
            raise FetchError("truncated_body", "a chunk is cut short")
        self._in_chunk -= len(piece)
        return piece

    async def _chunk_size(self) -> int:
        try:
            # The data of the chunk before it ends with a line end.
            line = await _read_line(self._stream) or await _read_line(self._stream)
        except EOFError:
            raise FetchError("truncated_body", "the last chunk is missing") from None
        size = line.partition(b";")[0].strip()
        if not _CHUNK_SIZE.fullmatch(size):
            raise FetchError("protocol_error", f"{size[:20]!r} is not the size of a chunk")
        return int(size, 16)


@contextlib.asynccontextmanager
async def lenient_get(
    url: URL,
    headers: Mapping[str, str],
    *,
    socket_factory: SocketFactory,
    tls: ssl.SSLContext,
    connect_timeout_s: float,
) -> AsyncIterator[LenientResponse]:
    """GET a URL without following redirects.

    Args:
        url: of the scheme http or https.
        headers: sent beside Host and Connection.
        socket_factory: makes the socket for an entry of `getaddrinfo`, or raises OSError for an
            address that must not be connected to.
        tls: for https.
        connect_timeout_s: seconds for the connection to one address.

    Raises:
        FetchError: the response is not HTTP, or the host accepts no connection in time.
        OSError: no connection.
    """
    sock = await _connect(url, socket_factory, connect_timeout_s)
    is_https = url.scheme == "https"
    try:
        reader, writer = await asyncio.open_connection(
            sock=sock,
            ssl=tls if is_https else None,
            server_hostname=url.raw_host if is_https else None,
            limit=_MAX_HEAD_BYTES,
        )
    except BaseException:
        sock.close()
        raise
    try:
        lines = [
            f"GET {url.raw_path_qs} HTTP/1.1",
            f"Host: {url.host_port_subcomponent}",
            *(f"{name}: {value}" for name, value in headers.items()),
            "Connection: close",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        try:
            response = await _read_head(reader)
        except EOFError:
            raise FetchError("connection_error", "closed before the end of the headers") from None
        yield response
    finally:
        writer.close()


async def _connect(
    url: URL, socket_factory: SocketFactory, connect_timeout_s: float
) -> socket.socket:
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(url.raw_host or "", url.port, type=socket.SOCK_STREAM)
    failure: Exception = OSError("the host has no address")
    for info in infos:
        try:
            sock = socket_factory(info)
        except OSError as error:
            failure = error
            continue
        try:
            async with asyncio.timeout(connect_timeout_s):
                await loop.sock_connect(sock, info[4])
            return sock
        except TimeoutError:
            failure = FetchError("timeout", f"no connection in {connect_timeout_s:g} s")
            sock.close()
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise failure


async def _read_head(stream: asyncio.StreamReader) -> LenientResponse:
    """The status line and headers of the final response, read as Chromium reads them."""
    size = 0
    while True:
        line = await _read_line(stream)
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise FetchError("protocol_error", f"the response starts with {line[:40]!r}")
        headers: CIMultiDict[str] = CIMultiDict()
        name = ""
        while line := await _read_line(stream):
            size += len(line)
            if size > _MAX_HEAD_BYTES:
                raise FetchError("protocol_error", f"headers of more than {_MAX_HEAD_BYTES} bytes")
            text = line.decode("utf-8", "surrogateescape")
            if text[0] in " \t":  # continues the header before it
                if name:
                    headers[name] = f"{headers[name]} {text.strip()}"
                continue
            name, colon, value = text.partition(":")
            name = name.strip() if colon else ""
            if name:  # a line without a name or a colon is ignored
                headers.add(name, value.strip())
        status = int(match[1])
        if status >= 200 or status == 101:
            reason = (match[2] or b"").decode("utf-8", "replace")
            return LenientResponse(status, reason, headers, stream)


async def _read_line(stream: asyncio.StreamReader) -> bytes:
    """A line without its end, which may be a bare line feed; EOFError without a line end."""
    try:
        line = await stream.readline()
    except ValueError:
        raise FetchError("protocol_error", f"a line of more than {_MAX_HEAD_BYTES} bytes") from None
    if not line.endswith(b"\n"):
        raise EOFError
    return line.rstrip(b"\r\n")


def _is_chunked(headers: Mapping[str, str]) -> bool:
    return "chunked" in headers.get("Transfer-Encoding", "").lower()


def _content_length(headers: CIMultiDict[str]) -> int | None:
    """The length that all Content-Length headers agree on; None without a valid one."""
    headed = ",".join(headers.getall("Content-Length", ()))
    values = {value.strip() for value in headed.split(",")}
    if len(values) > 1:
        raise FetchError("protocol_error", "Content-Length headers that contradict each other")
    (value,) = values
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 19 else None
