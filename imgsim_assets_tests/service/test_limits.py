from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from imgsim_assets.service.app import create_app
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, tiny
from imgsim_assets_tests.support.downloads import wait_until
from imgsim_assets_tests.support.served import Served, read_all

UPLOAD = "/api/query/products/image"
_HEAD = "POST /api/query/products HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_body_is_refused_by_its_length_before_it_is_read(served: Store) -> None:
    with Served(served, max_body_bytes=1000) as server:
        answer = server.send(f"{_HEAD}Content-Length: 2000\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


def test_body_without_a_length_is_refused_while_it_arrives(served: Store) -> None:
    with Served(served, max_body_bytes=1000) as server, server.connect() as connection:
        connection.sendall(f"{_HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(3):
            connection.sendall(b"190\r\n" + b" " * 400 + b"\r\n")
        answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 413 ")


def test_upload_larger_than_the_limit_is_refused(served: Store) -> None:
    settings = ServeSettings(max_upload_bytes=2000)
    with TestClient(create_app(served, settings), base_url="http://localhost") as client:
        large = client.post(UPLOAD, files=[("image", ("x.png", b"x" * 4000))])
        fits = client.post(UPLOAD, files=[("image", ("x.png", tiny(1)))])

    assert (large.status_code, fits.status_code) == (413, 200)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n"],
    ids=["nothing", "cut", "no-end"],
)
def test_connection_without_a_request_is_closed(served: Store, sent: bytes) -> None:
    with Served(served, header_timeout_s=0.2) as server:
        assert server.send(sent) == b""


def test_slow_second_request_of_a_connection_is_closed(served: Store) -> None:
    with Served(served, header_timeout_s=1) as server, server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"ok" in connection.recv(65536)
        connection.sendall(b"GET /heal")
        assert read_all(connection) == b""


def test_head_without_an_end_is_cut_off(served: Store) -> None:
    with Served(served) as server, server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                connection.sendall(b"X-A: " + b"x" * 65_536 + b"\r\n")
            connection.sendall(b"\r\n")
            answer = read_all(connection)

    assert answer == b""


def test_client_that_does_not_read_its_response_is_cut_off(served: Store) -> None:
    sha256 = served.blobs.put(bytes(30_000_000))
    served.blobs.flush()
    request = f"GET /api/images/{sha256} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with Served(served, header_timeout_s=1) as server, server.connect() as connection:
        connection.sendall(request)
        wait_until(lambda: server.connections == 1)
        wait_until(lambda: server.connections == 0)
        received = read_all(connection)

    assert 0 < len(received) < 30_000_000


def test_body_that_never_ends_is_answered_with_408(served: Store) -> None:
    with Served(served, request_timeout_s=0.3) as server:
        answer = server.send(f"{_HEAD}Content-Length: 20\r\n\r\n{{".encode())

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_connections_are_limited_and_others_are_told_so(served: Store) -> None:
    with Served(served, max_connections=2) as server:
        idle = [server.connect() for _ in range(3)]
        time.sleep(0.2)
        answer = server.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for connection in idle:
            connection.close()

    assert answer.startswith(b"HTTP/1.1 503 ")


def test_request_that_is_running_is_answered_when_the_service_stops(
    served: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, may_end = threading.Event(), threading.Event()
    read = type(served.blobs).get

    def slow(self: Any, sha256: str) -> bytes:
        started.set()
        may_end.wait(30)
        return read(self, sha256)

    with Served(served) as server:
        monkeypatch.setattr(type(served.blobs), "get", slow)
        sha256 = served.table("products/index").latest()
        assert sha256 is not None
        answers: list[bytes] = []
        path = f"/api/images/{'0' * 64}"
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        thread = threading.Thread(target=lambda: answers.append(server.send(request)))
        thread.start()
        assert started.wait(30)
        server.stop()
        time.sleep(0.2)
        may_end.set()
        thread.join(30)

    assert answers[0].startswith(b"HTTP/1.1 404 ")


def test_too_many_images_that_wait_for_the_encoder_are_refused(store: Store) -> None:
    indexed(store, "products", {"a": tiny(1)})
    settings = ServeSettings(max_waiting_encodes=1)
    with TestClient(create_app(store, settings), base_url="http://localhost") as client:
        encoder = client.app.state.encoder  # type: ignore[attr-defined]
        encoder.waiting = 1
        response = client.post("/api/query/products", json={"text": "shoe"})

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
