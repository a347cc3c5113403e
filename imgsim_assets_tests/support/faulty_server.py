"""A loopback server that sends given bytes, well-formed or not."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

# The longest life of a connection, so that a forgotten one cannot block a test run.
_LONGEST_SECONDS = 60.0
_TICK_SECONDS = 0.01


class Connection:
    """One accepted connection whose request header has been read."""

    def __init__(
        self,
        stream: socket.socket,
        request: bytes,
        stopping: threading.Event,
        on_answer: Callable[[], None],
    ) -> None:
        self.request = request
        self.sent = 0
        self._on_answer = on_answer
        self._stream = stream
        self._stopping = stopping
        self._until = time.monotonic() + _LONGEST_SECONDS

    @property
    def path(self) -> str:
        """The path in the request line."""
        words = self.request.split(b" ", 2)
        return words[1].decode() if len(words) > 1 else ""

    @property
    def is_open(self) -> bool:
        """Whether the connection has time left and the server runs."""
        return not self._stopping.is_set() and time.monotonic() < self._until

    def send(self, data: bytes) -> None:
        if data and not self.sent:
            self._on_answer()
        self._stream.sendall(data)
        self.sent += len(data)

    def send_repeatedly(self, piece: bytes, every: float = 0.0) -> None:
        """Repeat a piece until the client disconnects or the time is up."""
        while self.is_open:
            self.send(piece)
            if every:
                self._stopping.wait(every)

    def wait(self, enough: Callable[[], bool]) -> bool:
        """Send nothing until `enough()`; False when the time is up or the client disconnected."""
        self._stream.settimeout(_TICK_SECONDS)
        while self.is_open and not enough():
            with contextlib.suppress(TimeoutError):
                if not self._stream.recv(1024):
                    return False
        self._stream.settimeout(_LONGEST_SECONDS)
        return enough()


Responder = Callable[[Connection], None]


class FaultyServer:
    """Answers one request per connection, with fixed bytes or by a function.

    `connections` counts accepted connections, `requests` lists the requested paths, and
    `max_concurrent` is the peak of requests that waited for a response. A request counts until
    its first byte is sent: a client that has the last byte may send the next request before the
    thread of the first one ends.
    """

    def __init__(
        self,
        respond: Responder | bytes,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._respond = respond if callable(respond) else respond_with(respond)
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=128)
        self._listening.settimeout(_TICK_SECONDS)
        self._host = host
        self.port: int = self._listening.getsockname()[1]
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._waiting: set[object] = set()
        self.connections = 0
        self.requests: list[str] = []
        self.headers: list[bytes] = []
        self.max_concurrent = 0
        self.max_sent = 0

    @property
    def address(self) -> str:
        """host:port, as in `allowed_hosts`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self.port}"

    def url(self, path: str = "/") -> str:
        return f"{'https' if self._tls else 'http'}://{self.address}{path}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        for thread in list(self._threads):
            thread.join(_LONGEST_SECONDS)
        self._listening.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                stream, _ = self._listening.accept()
                self.connections += 1
                self._start(self._serve, stream)

    def _serve(self, stream: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(stream):
            stream.settimeout(_LONGEST_SECONDS)
            if self._tls is None:
                self._answer(stream)
                return
            with self._tls.wrap_socket(stream, server_side=True) as secure:
                self._answer(secure)

    def _answer(self, stream: socket.socket) -> None:
        request = _read_header(stream)
        if not request:
            return
        waiting = object()

        def answered() -> None:
            with self._lock:
                self._waiting.discard(waiting)

        connection = Connection(stream, request, self._stopping, answered)
        with self._lock:
            self.requests.append(connection.path)
            self.headers.append(request)
            self._waiting.add(waiting)
            self.max_concurrent = max(self.max_concurrent, len(self._waiting))
        try:
            self._respond(connection)
        finally:
            answered()
            with self._lock:
                self.max_sent = max(self.max_sent, connection.sent)


class PageServer(FaultyServer):
    """Serves `pages`: whole responses or functions, by path. Other paths are 404."""

    def __init__(self) -> None:
        super().__init__(self._page)
        self.pages: dict[str, bytes | Responder] = {}

    @property
    def gets(self) -> Counter[str]:
        """GET requests by path."""
        return Counter(self.requests)

    def _page(self, connection: Connection) -> None:
        page = self.pages.get(connection.path, response(b"no", status=b"404 Not Found"))
        if callable(page):
            page(connection)
        else:
            connection.send(page)


def respond_with(data: bytes) -> Responder:
    """Send exactly these bytes, then close the connection."""
    return lambda connection: connection.send(data)


def respond_by_path(pages: Mapping[str, bytes]) -> Responder:
    """Send the bytes of the requested path; 404 for other paths."""
    return lambda connection: connection.send(
        pages.get(connection.path, response(status=b"404 Not Found"))
    )


def response(
    body: bytes = b"", *headers: bytes, status: bytes = b"200 OK", length: int | None = None
) -> bytes:
    """A whole response; `length` overrides its Content-Length."""
    declared = len(body) if length is None else length
    lines = [b"HTTP/1.1 " + status, b"Connection: close", b"Content-Length: %d" % declared]
    return b"\r\n".join([*lines, *headers, b"", body])


def redirect(target: str, *headers: bytes, status: bytes = b"302 Found") -> bytes:
    """A redirect to a target, which is sent as given."""
    return response(b"", b"Location: " + target.encode(), *headers, status=status)


def _read_header(stream: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = stream.recv(65536)
        if not piece:
            return b""
        received += piece
    return received
