"""An HTTP server on loopback that serves images and counts its requests."""

from __future__ import annotations

import http.server
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

Respond = Callable[[http.server.BaseHTTPRequestHandler], None]


class ImageServer:
    """Serves what `pages` maps paths to; a context manager that runs while it is entered.

    A catalog must allow its host: `download: {allowed_hosts: [server.address]}`.

    Attributes:
        pages: bytes, or a function that writes the response, by path such as "/a.jpg".
        gets: the number of GET requests by path; a path without a page is a 404 and counts too.
    """

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Respond] = {}
        self.gets: Counter[str] = Counter()
        self._lock = threading.Lock()
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with served._lock:
                    served.gets[self.path] += 1
                served.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # The poll interval decides how long a test takes to shut the server down.
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Write the response to a request."""
        page = self.pages.get(request.path)
        if callable(page):
            page(request)
            return
        body = page if page is not None else b"not here"
        request.send_response(200 if page is not None else 404)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        """host:port, as in `allowed_hosts`."""
        return f"127.0.0.1:{self._server.server_port}"

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"http://{self.address}{path}"

    @property
    def total_gets(self) -> int:
        """The number of GET requests."""
        with self._lock:
            return sum(self.gets.values())
