"""Serve the demo's images over HTTP on this machine."""

from __future__ import annotations

import contextlib
import http.server
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from imgsim_assets.demo.loopback import open_loopback

HOST = "127.0.0.1"
PORT = 8931
ADDRESS = f"{HOST}:{PORT}"
_NAME = "imgsim-demo"


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = _NAME

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Serve a folder while the context lasts, unless another demo serves it already.

    Raises:
        OSError: another program uses the port.
    """
    if _is_served():
        yield
        return
    try:
        server = http.server.ThreadingHTTPServer((HOST, PORT), partial(_Handler, directory=folder))
    except OSError as error:
        raise OSError(
            f"another program uses port {PORT} of {HOST}, which serves the demo's images; stop it "
            "and try again"
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _is_served() -> bool:
    request = urllib.request.Request(f"http://{ADDRESS}/", method="HEAD")
    try:
        with open_loopback(request, timeout=2) as response:
            return str(response.headers.get("Server", "")).startswith(_NAME)
    except OSError:
        return False
