"""A store served on loopback by a real HTTP server, in a thread."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import Self

from imgsim_assets.service.run import create_server, listen
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.storage.store import Store


class Served:
    """`imgsim serve` on a free port, as a context manager."""

    def __init__(self, store: Store, **settings: object) -> None:
        chosen = ServeSettings.model_validate({"port": 0, **settings})
        self._listener = listen(chosen)
        self._server = create_server(store, chosen)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started and self._thread.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._thread.join(60)
        self._listener.close()

    def stop(self) -> None:
        """Ask the server to stop, as SIGTERM does."""
        self._server.should_exit = True

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._server.server_state.connections)

    def connect(self) -> socket.socket:
        """A connection on which nothing was sent."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def send(self, request: bytes) -> bytes:
        """What the server answers to some bytes until it closes the connection."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """Everything that arrives until the connection is closed."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
