"""An HTTP server on loopback that counts its requests."""

from __future__ import annotations

import http.server
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

Respond = Callable[[http.server.BaseHTTPRequestHandler], None]


class Web:
    """Serves what `pages` maps paths to: bytes, or a function that writes the response.

    `gets` counts GET requests by path; a path without a page is a 404 and counts too.
    """

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Respond] = {}
        self.gets: Counter[str] = Counter()
        self._lock = threading.Lock()
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with web._lock:
                    web.gets[self.path] += 1
                web.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # The poll interval decides how long a test takes to shut the server down.
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
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
        return f"http://{self.address}{path}"

    @property
    def total_gets(self) -> int:
        with self._lock:
            return sum(self.gets.values())
