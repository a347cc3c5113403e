"""Responses that break the rules of HTTP, and that browsers show."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from imgsim_assets_tests.support.faulty_server import (
    Connection,
    FaultyServer,
    redirect,
    respond_by_path,
    response,
)
from imgsim_assets_tests.support.http_client import fetch, fetch_all, status_of
from imgsim_assets_tests.support.tls import self_signed, server_context

IMAGE = b"\x89PNG and so on"
LENGTH = b"Content-Length: %d" % len(IMAGE)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"6\r\n" + IMAGE[:6] + b"\r\n8\r\n" + IMAGE[6:] + b"\r\n0\r\n"


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([status, *lines, b"", b""])


@pytest.mark.parametrize(
    "sent",
    [
        head(LENGTH) + IMAGE + b"bytes behind the end",
        head(LENGTH, b"Connection: close") + IMAGE + b"bytes behind the end",
        head(LENGTH) + IMAGE + head(b"Content-Length: 5") + b"other",
        head(b"no colon here", LENGTH) + IMAGE,
        head(LENGTH, b"no colon here") + IMAGE,
        head(b" X-Blank: before the first name", LENGTH) + IMAGE,
        head(LENGTH, b" X-Blank: before a name") + IMAGE,
        head(b"X-Blank : before the colon", LENGTH) + IMAGE,
        head(b"Content-Length : %d" % len(IMAGE)) + IMAGE,
        head(b": no name", LENGTH) + IMAGE,
        head(b"X-Empty:", LENGTH) + IMAGE,
        head(b"X Space: in the name", LENGTH) + IMAGE,
        head(b"X-Nul: a\0b", LENGTH) + IMAGE,
        head(b"X-Bytes: \xff\xfe", LENGTH) + IMAGE,
        head(b"X-Large: " + b"a" * 20_000, LENGTH) + IMAGE,
        head(*[b"X-Many: 1"] * 500, LENGTH) + IMAGE,
        head(LENGTH, LENGTH) + IMAGE,
        head(LENGTH + b", %d" % len(IMAGE)) + IMAGE,
        head(b"Content-Length: -7") + IMAGE,
        head(b"Content-Length: many") + IMAGE,
        head(LENGTH, status=b"HTTP/1.1 200") + IMAGE,
        head(LENGTH, status=b"http/1.1 200 OK") + IMAGE,
        head(LENGTH, status=b"HTTP/1 200 OK") + IMAGE,
        head(LENGTH, status=b"HTTP/1.1 200 " + b"a" * 100_000) + IMAGE,
        head(status=b"HTTP/1.1 100 Continue") + head(LENGTH, b"no colon") + IMAGE,
        head(LENGTH, b"no colon").replace(b"\r\n", b"\n") + IMAGE,
        head(CHUNKED) + CHUNKS + b"\r\n",
        head(CHUNKED) + CHUNKS + b"X-Trailer: 1\r\n\r\n",
        head(CHUNKED, b"no colon") + CHUNKS + b"X-Trailer: 1\r\n\r\n",
        head(CHUNKED) + CHUNKS.replace(b"\r\n", b"\n") + b"\n",
        head(CHUNKED, b"no colon") + CHUNKS.replace(b"6\r", b"6 ;name=value\r") + b"\r\n",
        head(CHUNKED) + CHUNKS + b"\r\nbytes behind the end",
        head(CHUNKED, b"Content-Length: 3") + CHUNKS + b"\r\n",
        head(b"Transfer-Encoding: identity", LENGTH) + IMAGE,
        head(b"Content-Type: text/html", LENGTH) + IMAGE,
        head(LENGTH, status=b"HTTP/1.1 201 Created") + IMAGE,
        head(LENGTH, status=b"HTTP/1.1 203 Non-Authoritative Information") + IMAGE,
        head(LENGTH, status=b"HTTP/1.1 206 Partial Content") + IMAGE,
        head(
            LENGTH,
            b"Content-Range: bytes 0-%d/%d" % (len(IMAGE) - 1, len(IMAGE)),
            status=b"HTTP/1.1 206 Partial Content",
        )
        + IMAGE,
    ],
)
def test_response_that_browsers_show_is_read(sent: bytes) -> None:
    with FaultyServer(sent) as server:
        assert fetch(server.url()).data == IMAGE


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head(LENGTH, b"no colon") + IMAGE[:5], "truncated_body"),
        (head(CHUNKED, b"no colon") + CHUNKS[:7], "truncated_body"),
        (head(CHUNKED, b"no colon") + CHUNKS[:-3], "truncated_body"),
        (head(CHUNKED, b"no colon") + b"zz\r\n" + IMAGE, "protocol_error"),
        (head(b"no colon")[:-2], "connection_error"),
        (head(LENGTH, b"Content-Length: 3", b"no colon") + IMAGE, "protocol_error"),
        (head(LENGTH, b"no colon", status=b"HTTP/1.1 404 Not Found") + IMAGE, "http_404"),
        (head(b"no colon", status=b"HTTP/1.1 204 No Content"), "http_204"),
    ],
)
def test_failed_response_with_invalid_headers_has_a_status(sent: bytes, status: str) -> None:
    with FaultyServer(sent) as server:
        assert status_of(server.url()) == status


def test_declared_and_undeclared_size_above_the_limit_are_refused() -> None:
    large = bytes(2_000_000)
    for sent in (head(b"Content-Length: 2000000", b"no colon"), head(b"no colon")):
        with FaultyServer(sent + large) as server:
            assert status_of(server.url(), max_megabytes=1) == "too_large"


def test_redirect_with_invalid_headers_is_followed() -> None:
    pages = {"/moved": redirect("../a.jpg", b"no colon"), "/a.jpg": response(IMAGE)}
    with FaultyServer(respond_by_path(pages)) as server:
        assert fetch(server.url("/moved")).data == IMAGE


@pytest.mark.parametrize("surplus", [response(b"forged"), b"surplus"])
def test_bytes_behind_a_body_never_become_the_next_image(surplus: bytes) -> None:
    def respond(connection: Connection) -> None:
        body = connection.path.encode()
        connection.send(head(b"Content-Length: %d" % len(body)) + body + surplus)
        connection.wait(lambda: False)

    paths = [f"/{number}" for number in range(20)]
    with FaultyServer(respond) as server:
        assert fetch_all([server.url(path) for path in paths]) == [path.encode() for path in paths]


def test_bytes_that_arrive_after_their_body_fail_no_image() -> None:
    pause = threading.Event()

    def respond(connection: Connection) -> None:
        body = connection.path.encode()
        connection.send(head(b"Content-Length: %d" % len(body)) + body)
        pause.wait(0.02)
        connection.send(b"surplus")
        connection.wait(lambda: False)

    paths = [f"/{number}" for number in range(20)]
    with FaultyServer(respond) as server:
        assert fetch_all([server.url(path) for path in paths]) == [path.encode() for path in paths]


def test_host_is_asked_once_per_image_after_three_invalid_responses() -> None:
    with FaultyServer(head(LENGTH, b"no colon") + IMAGE) as server:
        assert fetch_all([server.url()] * 6) == [IMAGE] * 6
    assert server.connections == 3 * 2 + 3


def test_single_invalid_responses_do_not_change_how_a_host_is_asked() -> None:
    pages = {"/odd": head(LENGTH, b"no colon") + IMAGE, "/good": response(IMAGE)}
    with FaultyServer(respond_by_path(pages)) as server:
        assert fetch_all([server.url("/odd"), server.url("/good")] * 5) == [IMAGE] * 10
    assert server.connections == 5 * 2 + 5


def test_request_for_an_invalid_response_has_the_same_headers() -> None:
    with FaultyServer(head(LENGTH, b"no colon") + IMAGE) as server:
        fetch(server.url("/a.jpg?x=1"), user_agent="shopbot/1", headers={"Referer": "http://a/"})
    first, second = (sorted(sent.lower().split(b"\r\n")) for sent in server.headers)
    second.remove(b"connection: close")
    assert first == second


def test_lenient_reader_connects_to_no_internal_address() -> None:
    with (
        FaultyServer(head(LENGTH, b"no colon") + IMAGE) as internal,
        FaultyServer(redirect(internal.url(), b"no colon")) as shop,
    ):
        assert status_of(shop.url(), allowed_hosts=(shop.address,)) == "blocked_address"
    assert internal.connections == 0


def test_lenient_reader_verifies_certificates(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    sent = head(LENGTH, b"no colon") + IMAGE
    with FaultyServer(sent, tls=server_context(certificate)) as server:
        assert status_of(server.url()) == "tls_error"
        assert fetch(server.url(), ca_file=str(certificate)).data == IMAGE
