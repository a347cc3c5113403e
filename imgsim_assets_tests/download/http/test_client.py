from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.download.fetched import Fetched
from imgsim_assets.download.http import address
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.status import FetchError
from imgsim_assets_tests.support.downloads import fast_settings
from imgsim_assets_tests.support.faulty_server import (
    Connection,
    FaultyServer,
    Responder,
    redirect,
    respond_by_path,
    response,
)
from imgsim_assets_tests.support.processes import BUSY_S
from imgsim_assets_tests.support.tls import self_signed, server_context

IMAGE = b"\x89PNG and so on"
BUSY = response(status=b"503 Busy")
REFUSED = {"blocked_address", "bad_url", "dns_error"}

# ---- successful requests ------------------------------------------------------------


def test_fetch_returns_bytes_with_their_validators() -> None:
    versioned = response(IMAGE, b'ETag: "v1"', b"Last-Modified: Wed, 01 May 2024 12:00:00 GMT")
    with FaultyServer(versioned) as server:
        assert fetch(server.url()) == Fetched(IMAGE, '"v1"', "Wed, 01 May 2024 12:00:00 GMT")


def test_chunked_body_is_joined() -> None:
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    with FaultyServer(chunked) as server:
        assert fetch(server.url()).data == b"abcde"


def test_body_without_content_length_ends_with_the_connection() -> None:
    with FaultyServer(b"HTTP/1.0 200 OK\r\n\r\n" + IMAGE) as server:
        assert fetch(server.url()).data == IMAGE


def test_request_sends_user_agent_and_identity_encoding() -> None:
    with FaultyServer(response(IMAGE)) as server:
        fetch(server.url("/a.jpg"), user_agent="shop images, ask ops@shop.example")
    sent = server.headers[0].lower()
    assert sent.startswith(b"get /a.jpg http/1.1\r\n")
    assert b"user-agent: shop images, ask ops@shop.example\r\n" in sent
    assert b"accept-encoding: identity\r\n" in sent


def test_cookies_are_not_sent_with_the_next_request() -> None:
    pages = {
        "/first": redirect("/second", b"Set-Cookie: session=1; Path=/"),
        "/second": response(IMAGE),
    }
    with FaultyServer(respond_by_path(pages)) as server:
        assert fetch(server.url("/first")).data == IMAGE
    assert server.requests == ["/first", "/second"]
    assert not any(b"cookie" in sent.lower() for sent in server.headers)


@pytest.mark.parametrize(
    "path",
    [
        "/a%20b.jpg",
        "/a+b.jpg",
        "/deep%2Fa.jpg",
        "/caf%C3%A9.jpg",
        "/caf%E9.jpg",
        "/a//b.jpg",
        "/a;b=c,d.jpg",
        "/a.jpg?signature=a%2Bb%3D%3D&width=%26",
        "/a.jpg?token=acl%2F*~hmac",
        "/a.jpg?source=https%3A%2F%2Fshop.example%2Fb.jpg",
        "/%7Eshop/a.jpg",
    ],
)
def test_escaped_url_is_requested_as_written(path: str) -> None:
    with FaultyServer(response(IMAGE)) as server:
        fetch(server.url(path))
    assert server.requests == [path]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a b.jpg", "/a%20b.jpg"),
        ("/caf\u00e9.jpg", "/caf%C3%A9.jpg"),
        ("/100%.jpg", "/100%25.jpg"),
        ("/a.jpg#top", "/a.jpg"),
        ("", "/"),
    ],
)
def test_invalid_characters_of_a_url_are_escaped(path: str, sent: str) -> None:
    with FaultyServer(response(IMAGE)) as server:
        fetch(server.url(path))
    assert server.requests == [sent]


def test_proxy_environment_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyServer(response(b"from the proxy")) as proxy, FaultyServer(response(IMAGE)) as shop:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert fetch(shop.url()).data == IMAGE
    assert proxy.connections == 0


# ---- failures -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (response(b"gone", status=b"404 Not Found"), "http_404"),
        (response(status=b"410 Gone"), "http_410"),
        (response(status=b"403 Forbidden"), "http_403"),
        (response(status=b"500 Internal Server Error"), "http_500"),
        (response(status=b"429 Too Many Requests"), "rate_limited"),
        (response(status=b"999 Request denied"), "http_999"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "http_204"),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "http_304"),
        (response(IMAGE, b"Content-Range: bytes 0-9/99", status=b"206 Part"), "http_206"),
        (response(status=b"302 Found"), "http_302"),
        (response(status=b"300 Multiple Choices"), "http_300"),
        (response(IMAGE, length=1000), "truncated_body"),
        (response(b""), "truncated_body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "truncated_body"),
        (b"", "connection_error"),
        (b"HTTP/1.1 200 OK\r\nConte", "connection_error"),
        (b"what is this?\r\n\r\n", "protocol_error"),
        (bytes(range(256)) * 8, "protocol_error"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 9\r\n\r\nabc", "protocol_error"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", "protocol_error"),
        (response(IMAGE, b"Transfer-Encoding: chunked"), "truncated_body"),
        (response(IMAGE, b"X-Large: " + b"a" * 300_000), "protocol_error"),
        (response(IMAGE, *[b"X-Large: " + b"a" * 1000] * 300), "protocol_error"),
        (b"HTTP/1.1 200 " + b"a" * 300_000 + b"\r\n\r\n", "protocol_error"),
    ],
)
def test_every_failed_response_has_a_status(sent: bytes, status: str) -> None:
    with FaultyServer(sent) as server:
        assert status_of(server.url()) == status


def test_corrupt_responses_end_as_bytes_or_a_status() -> None:
    rng = random.Random(7)
    answers = [corrupt_response(rng) for _ in range(150)]
    with FaultyServer(
        lambda connection: connection.send(answers[len(server.requests) % len(answers)])
    ) as server:
        outcomes = asyncio.run(fetch_sequentially([server.url()] * len(answers)))
    assert len(outcomes) == len(answers)
    assert {"ok", "protocol_error", "truncated_body"} <= set(outcomes)


@pytest.mark.parametrize(
    "moment",
    [b"Wed, 01 Jan 99999999999999999999 00:00:00 GMT", b"Wed, 01 Jan 2020 00:00:00 +9999999999999"],
)
def test_date_out_of_range_in_retry_after_is_ignored(moment: bytes) -> None:
    busy = response(b"", b"Retry-After: " + moment, status=b"503 Busy")
    with FaultyServer(busy) as server:
        assert status_of(server.url()) == "http_503"


def test_superscript_digit_in_retry_after_is_ignored() -> None:
    busy = response(b"", b"Retry-After: \xc2\xb2", status=b"503 Busy")
    with FaultyServer(busy) as server:
        assert status_of(server.url()) == "http_503"


def test_closed_port_is_a_connection_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert status_of(f"http://127.0.0.1:{port}/") == "connection_error"


def test_unknown_host_name_is_a_dns_error() -> None:
    assert status_of("http://no-such-shop.invalid/a.jpg") == "dns_error"


def test_unknown_allowed_host_name_is_a_dns_error() -> None:
    name = "no-such-shop.invalid"
    assert status_of(f"http://{name}:8080/a.jpg", allowed_hosts=(name,)) == "dns_error"


def test_host_that_accepts_no_connection_times_out() -> None:
    with full_backlog() as port:
        started = time.monotonic()
        assert status_of(f"http://127.0.0.1:{port}/", connect_timeout_s=0.3) == "timeout"
        assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        pytest.param(b"", b"", id="silence"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="interim answers without end"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a", id="a header without end"),
        pytest.param(response(length=1_000_000), b"a", id="a body without end"),
        pytest.param(response(IMAGE, length=1_000_000), b"", id="silence within the body"),
    ],
)
def test_slow_server_times_out(head: bytes, piece: bytes) -> None:
    with FaultyServer(endless(head, piece, every=0.05)) as server:
        assert status_of(server.url(), timeout_s=0.8, read_timeout_s=0.5) == "timeout"


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        pytest.param(b"", b"", id="silence"),
        pytest.param(response(IMAGE, length=1_000_000), b"", id="silence within the body"),
    ],
)
def test_idle_server_times_out_before_the_total_deadline(head: bytes, piece: bytes) -> None:
    with FaultyServer(endless(head, piece, every=0.05)) as server:
        started = time.monotonic()
        with pytest.raises(FetchError, match=r"timeout: no data for 0\.5 s"):
            fetch(server.url(), timeout_s=30, read_timeout_s=0.5)
        assert time.monotonic() - started < 25


def test_connecting_does_not_count_as_idle() -> None:
    def late_handshake(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        time.sleep(1.0)
        connection.sendall(b"no handshake at all")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = threading.Thread(target=late_handshake, args=(listener,))
        server.start()
        status = status_of(f"https://127.0.0.1:{port}/", read_timeout_s=0.3, connect_timeout_s=20)
        server.join()
    assert status == "tls_error"


def test_slow_body_times_out_below_the_minimum_rate() -> None:
    def page(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        connection.send_repeatedly(b"x", every=0.05)

    started = time.monotonic()
    with FaultyServer(page) as server:
        status = status_of(server.url(), read_timeout_s=0.3, timeout_s=30, min_bytes_per_second=100)
        assert status == "timeout"
    assert time.monotonic() - started < 25


def test_slow_body_is_read_without_a_minimum_rate() -> None:
    def page(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            connection.send(b"x")
            time.sleep(0.15)

    with FaultyServer(page) as server:
        fetched = fetch(server.url(), read_timeout_s=1.2, timeout_s=30, min_bytes_per_second=0)
    assert fetched.data == b"x" * 10


def test_declared_size_above_the_limit_is_refused() -> None:
    with FaultyServer(endless(response(length=1_000_001), b"", every=0.05)) as server:
        assert status_of(server.url(), max_megabytes=1) == "too_large"


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="until the connection ends"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", id="chunked"
        ),
    ],
)
def test_undeclared_size_above_the_limit_is_refused(head: bytes) -> None:
    with FaultyServer(endless(head)) as server:
        assert status_of(server.url(), max_megabytes=1) == "too_large"
    assert server.max_sent < 20_000_000


def test_body_may_be_as_large_as_the_limit() -> None:
    with FaultyServer(response(b"a" * 1000)) as server:
        assert status_of(server.url(), max_megabytes=0.001) == "ok"
        assert status_of(server.url(), max_megabytes=0.000_999) == "too_large"


def test_endless_headers_are_refused() -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(100))
    with FaultyServer(endless(b"HTTP/1.1 200 OK\r\n", lines)) as server:
        assert status_of(server.url()) == "protocol_error"
    assert server.max_sent < 20_000_000


@pytest.mark.parametrize("status", [b"429 Slow down", b"503 Busy"])
def test_error_carries_retry_after(status: bytes) -> None:
    busy = response(b"", b"Retry-After: 7", status=status)
    with FaultyServer(busy) as server, pytest.raises(FetchError) as failed:
        fetch(server.url())
    assert failed.value.retry_after == 7.0


# ---- redirects ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int) -> None:
    pages = {
        "/folder/old": redirect("../new?size=1", status=b"%d Elsewhere" % status),
        "/new?size=1": response(IMAGE),
    }
    with FaultyServer(respond_by_path(pages)) as server:
        assert fetch(server.url("/folder/old")).data == IMAGE


@pytest.mark.parametrize(("hops", "outcome"), [(0, "ok"), (3, "ok"), (4, "redirect_loop")])
def test_max_redirects_limits_redirects(hops: int, outcome: str) -> None:
    pages = {f"/{hop}": redirect(f"/{hop + 1}") for hop in range(hops)}
    with FaultyServer(respond_by_path({**pages, f"/{hops}": response(IMAGE)})) as server:
        assert status_of(server.url("/0"), max_redirects=3) == outcome
    assert len(server.requests) == min(hops, 3) + 1


@pytest.mark.parametrize(
    ("location", "requested"),
    [
        (b"/caf\xe9.jpg", "/caf%E9.jpg"),
        (b"/caf\xc3\xa9.jpg", "/caf%C3%A9.jpg"),
        (b"/a.jpg?shop=\xfc%20b", "/a.jpg?shop=%FC%20b"),
    ],
)
def test_redirect_to_unescaped_bytes_is_followed(location: bytes, requested: str) -> None:
    moved = response(b"", b"Location: " + location, status=b"302 Found")
    with FaultyServer(respond_by_path({"/moved": moved, requested: response(IMAGE)})) as server:
        assert status_of(server.url("/moved")) == "ok"
    assert server.requests == ["/moved", requested]


def test_redirect_loop_ends() -> None:
    with FaultyServer(redirect("/loop")) as server:
        assert status_of(server.url("/loop"), max_redirects=4) == "redirect_loop"
    assert server.requests == ["/loop"] * 5


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a.jpg",
        "data:image/png;base64,AAAA",
        "gopher://127.0.0.1:6379/_INFO",
        "http://user:password@127.0.0.1/",
        "http://user@127.0.0.1/",
        "http://[::1/",
        "http://127.0.0.1:99999/",
        "http://a..b/",
    ],
)
def test_redirect_to_an_unsupported_url_is_a_bad_url(target: str) -> None:
    with FaultyServer(redirect(target)) as server:
        assert status_of(server.url()) == "bad_url"
    assert server.connections == 1


def test_redirect_from_https_to_http_is_refused(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    tls = server_context(certificate)
    pages = {"/a.jpg": response(IMAGE), "/moved": redirect("/a.jpg")}
    with (
        FaultyServer(response(IMAGE)) as plain,
        FaultyServer(respond_by_path(pages), tls=tls) as secure,
    ):
        pages["/downgraded"] = redirect(plain.url())
        outcomes = fetch_with_certificate(certificate, [secure.url(path) for path in pages])
    assert outcomes == ["ok", "ok", "bad_redirect"]
    assert plain.connections == 0


def test_untrusted_certificate_is_a_tls_error(tmp_path: Path) -> None:
    with FaultyServer(response(IMAGE), tls=server_context(self_signed(tmp_path))) as server:
        assert status_of(server.url()) == "tls_error"
    assert server.requests == []


# ---- internal addresses -------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "0",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
        "%31%32%37.0.0.1",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[::1%25lo]",
        "[::1%lo]",
        "@127.0.0.1",
        "user@127.0.0.1",
        "user:password@127.0.0.1",
        "shop.example@127.0.0.1",
    ],
)
def test_no_spelling_of_an_internal_address_is_connected_to(
    internal: FaultyServer, host: str
) -> None:
    assert status_of(f"http://{host}:{internal.port}/", allowed_hosts=()) in REFUSED
    assert internal.connections == 0


@pytest.mark.parametrize("host", ["[::1]", "localhost", "[::]", "[::1%25lo]"])
def test_internal_ipv6_address_is_not_connected_to(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    with loopback_v6() as server:
        allow_web_port(monkeypatch, server.port)
        assert status_of(f"http://{host}:{server.port}/", allowed_hosts=()) in REFUSED
    assert server.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_redirect_from_an_allowed_host_to_an_internal_address_is_blocked(
    internal: FaultyServer, host: str
) -> None:
    with FaultyServer(redirect(f"http://{host}:{internal.port}/")) as shop:
        assert status_of(shop.url(), allowed_hosts=(shop.address,)) == "blocked_address"
    assert (shop.connections, internal.connections) == (1, 0)


def test_cloud_metadata_addresses_are_blocked() -> None:
    for host in ("169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"):
        assert status_of(f"http://{host}/latest/meta-data/", allowed_hosts=()) == "blocked_address"


def test_other_ports_are_blocked() -> None:
    with FaultyServer(response(IMAGE)) as server:
        assert status_of(server.url(), allowed_hosts=()) == "blocked_address"
    assert server.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http:///a.jpg",
        "http://:80/a.jpg",
        "http://user@/a.jpg",
        "http://[::1/a.jpg",
        "http://a:port/a.jpg",
        f"http://{'a' * 64}.example/a.jpg",
        "http://a.example/\ud83d.jpg",
        "ftp://127.0.0.1/a.jpg",
        "",
    ],
)
def test_malformed_url_is_a_bad_url(url: str) -> None:
    assert status_of(url) == "bad_url"


# ---- proxies ------------------------------------------------------------------------


def test_proxy_gets_the_whole_url_and_its_credentials() -> None:
    with FaultyServer(response(IMAGE)) as proxy:
        proxy_url = f"http://me:secret@{proxy.address}"
        fetched = fetch("http://shop.example/a.jpg?x=1", proxy=proxy_url, allowed_hosts=())
    assert fetched.data == IMAGE
    assert proxy.requests == ["http://shop.example/a.jpg?x=1"]
    assert b"Proxy-Authorization: Basic" in proxy.headers[0]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "x.localhost.", "[::1]", "169.254.169.254"),
        *("0x7f.1", "[::ffff:10.0.0.1]", "192.168.0.1"),
    ],
)
def test_proxy_is_not_used_for_internal_addresses(host: str) -> None:
    with FaultyServer(response(IMAGE)) as proxy:
        status = status_of(
            f"http://{host}/a.jpg", proxy=f"http://{proxy.address}", allowed_hosts=()
        )
    assert status in REFUSED
    assert proxy.requests == []


def test_allowed_host_is_reached_without_the_proxy() -> None:
    with FaultyServer(response(IMAGE)) as server, FaultyServer(BUSY) as proxy:
        assert fetch(server.url(), proxy=f"http://{proxy.address}").data == IMAGE
    assert proxy.requests == []


# ---- concurrency --------------------------------------------------------------------


def test_waiting_for_a_slot_does_not_count_towards_the_timeout() -> None:
    def slowly(connection: Connection) -> None:
        time.sleep(0.4)
        connection.send(response(IMAGE))

    with FaultyServer(slowly) as server:
        outcomes = fetch_concurrently([server.url()] * 8, max_per_host=1, timeout_s=3)
    assert outcomes == ["ok"] * 8
    assert server.max_concurrent == 1


def test_request_that_waited_for_a_slot_still_times_out() -> None:
    def page(connection: Connection) -> None:
        if len(server.requests) == 1:
            time.sleep(0.3)
            connection.send(response(IMAGE))
        connection.send_repeatedly(b"", every=0.05)

    with FaultyServer(page) as server:
        outcomes = fetch_concurrently([server.url()] * 2, max_per_host=1, timeout_s=2)
    assert sorted(outcomes) == ["ok", "timeout"]


def test_redirects_between_full_hosts_do_not_deadlock() -> None:
    with FaultyServer(response(IMAGE)) as images:
        pages = {f"/{number}": redirect(images.url()) for number in range(8)}
        with FaultyServer(respond_by_path({**pages, "/back": redirect("/0")})) as shop:
            urls = [shop.url(path) for path in (*pages, "/back")]
            assert fetch_concurrently(urls, max_per_host=1) == ["ok"] * 9
    assert (images.max_concurrent, shop.max_concurrent) == (1, 1)


# ---- allowed hosts ------------------------------------------------------------------


def test_allowed_host_with_port_allows_that_port_only() -> None:
    with FaultyServer(response(IMAGE)) as shop, FaultyServer(response(IMAGE)) as other:
        assert status_of(shop.url(), allowed_hosts=(shop.address,)) == "ok"
        assert status_of(other.url(), allowed_hosts=(shop.address,)) == "blocked_address"
    assert other.connections == 0


def test_allowed_host_without_port_allows_every_port() -> None:
    with FaultyServer(response(IMAGE)) as shop, FaultyServer(response(IMAGE)) as other:
        assert status_of(shop.url(), allowed_hosts=("127.0.0.1",)) == "ok"
        assert status_of(other.url(), allowed_hosts=("127.0.0.1",)) == "ok"


def test_allowed_host_is_compared_with_the_name_in_the_url() -> None:
    with FaultyServer(response(IMAGE)) as server:
        by_name = server.url().replace("127.0.0.1", "LocalHost")
        assert status_of(by_name, allowed_hosts=("LOCALHOST",)) == "ok"
        assert status_of(by_name, allowed_hosts=("127.0.0.1",)) == "blocked_address"
        assert status_of(server.url(), allowed_hosts=("localhost",)) == "blocked_address"


def test_ipv6_address_in_brackets_is_allowed() -> None:
    with loopback_v6() as server:
        assert status_of(server.url(), allowed_hosts=("[::1]",)) == "ok"
        assert status_of(server.url(), allowed_hosts=(server.address,)) == "ok"


def test_any_spelling_of_an_allowed_ipv6_address_is_allowed() -> None:
    spelled = "[0:0:0:0:0:0:0:1]"
    with loopback_v6() as server:
        url = f"http://{spelled}:{server.port}/"
        assert status_of(url, allowed_hosts=(spelled,)) == "ok"


def test_allowed_host_does_not_match_prefixes_or_suffixes(
    internal: FaultyServer,
) -> None:
    for host in ("127.0.0.1", "127.0.0.1.example", "shop.localhost", "ocalhost"):
        url = f"http://localhost:{internal.port}/"
        assert status_of(url, allowed_hosts=(host,)) == "blocked_address"
    assert internal.connections == 0


# ---- helpers ------------------------------------------------------------------------


@pytest.fixture
def internal(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """A server on an allowed port, so that only its internal address is refused."""
    with FaultyServer(response(b"secret")) as server:
        allow_web_port(monkeypatch, server.port)
        yield server


def allow_web_port(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(address, "WEB_PORTS", frozenset({80, 443, port}))


def loopback_v6() -> FaultyServer:
    try:
        return FaultyServer(response(IMAGE), host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")


def fetch(url: str, **changes: Any) -> Fetched:
    async def once() -> Fetched:
        async with HttpClient(fast_settings(**changes)) as fetcher:
            return await fetcher.fetch(url)

    return asyncio.run(once())


def status_of(url: str, **changes: Any) -> str:
    try:
        fetch(url, **changes)
    except FetchError as error:
        return error.status
    return "ok"


async def fetch_sequentially(urls: list[str]) -> list[str]:
    outcomes = []
    async with HttpClient(fast_settings()) as fetcher:
        for url in urls:
            try:
                await fetcher.fetch(url)
            except FetchError as error:
                outcomes.append(error.status)
            else:
                outcomes.append("ok")
    return outcomes


def fetch_concurrently(urls: list[str], **changes: Any) -> list[str]:
    async def outcome(fetcher: HttpClient, url: str) -> str:
        try:
            await fetcher.fetch(url)
        except FetchError as error:
            return error.status
        return "ok"

    async def all_of_them() -> list[str]:
        async with HttpClient(fast_settings(**changes)) as fetcher:
            return await asyncio.gather(*(outcome(fetcher, url) for url in urls))

    return asyncio.run(all_of_them())


def fetch_with_certificate(certificate: Path, urls: list[str]) -> list[str]:
    """The status of each URL, fetched by a process that trusts a certificate."""
    program = (
        "import asyncio, sys\n"
        "from imgsim_assets_tests.download.http.test_client import fetch_sequentially\n"
        "print(*asyncio.run(fetch_sequentially(sys.argv[1:])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *urls],
        env={**os.environ, "SSL_CERT_FILE": str(certificate)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=BUSY_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def endless(head: bytes, piece: bytes = bytes(65536), every: float = 0.0) -> Responder:
    def respond(connection: Connection) -> None:
        connection.send(head)
        connection.send_repeatedly(piece, every)

    return respond


def corrupt_response(rng: random.Random) -> bytes:
    """A good response with a few bytes changed, repeated or removed."""
    body = bytearray(
        rng.choice(
            [
                response(IMAGE, b'ETag: "v1"', b"Content-Type: image/png"),
                response(b"", b"Set-Cookie: a=b; Max-Age=9; Expires=never", status=b"404 No"),
                redirect("http://shop.invalid/a.jpg"),
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            ]
        )
    )
    for _ in range(rng.randint(0, 4)):
        position = rng.randrange(len(body))
        match rng.randrange(3):
            case 0:
                body[position] = rng.randrange(256)
            case 1:
                body[position:position] = body[position : position + 5]
            case _:
                del body[position:]
                break
    return bytes(body)


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose backlog is full, so that it does not body another connection."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port
