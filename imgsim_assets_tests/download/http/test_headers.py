"""Headers, cookies and certificates that a catalog declares, and who gets them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from imgsim_assets.download.fetched import Validators
from imgsim_assets.download.status import FetchError, is_retryable
from imgsim_assets.errors import SettingsError
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
SECRET = {"Authorization": "Bearer s3cret"}


def test_headers_of_the_catalog_are_sent() -> None:
    with FaultyServer(response(IMAGE)) as server:
        fetch(server.url(), headers={**SECRET, "X-Empty": "", "X-Number": 12345})
    assert b"\r\nAuthorization: Bearer s3cret\r\n" in server.headers[0]
    assert b"\r\nX-Number: 12345\r\n" in server.headers[0]
    assert b"\r\nX-Empty:" in server.headers[0]


def test_headers_of_a_host_replace_those_of_the_catalog() -> None:
    with FaultyServer(response(IMAGE)) as server, FaultyServer(response(IMAGE)) as other:
        hosts = {server.address: {"headers": {"authorization": "Basic own"}}}
        fetch_all([server.url(), other.url()], headers=SECRET, hosts=hosts)
    assert b"authorization: Basic own" in server.headers[0]
    assert b"s3cret" not in server.headers[0]
    assert b"Authorization: Bearer s3cret" in other.headers[0]
    assert b"Basic own" not in other.headers[0]


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"303 See", b"307 To", b"308 To"])
def test_redirect_to_another_host_gets_no_headers(status: bytes) -> None:
    with (
        FaultyServer(response(IMAGE)) as other,
        FaultyServer(redirect(other.url(), status=status)) as shop,
    ):
        hosts = {shop.address: {"headers": {"X-Key": "k3y"}}}
        assert fetch(shop.url(), headers=SECRET, hosts=hosts).data == IMAGE
    assert b"s3cret" in shop.headers[0]
    assert b"s3cret" not in other.headers[0]
    assert b"k3y" not in other.headers[0]


def test_redirect_on_the_same_host_keeps_the_headers() -> None:
    pages = {"/a": redirect("/b"), "/b": response(IMAGE)}
    with FaultyServer(respond_by_path(pages)) as server:
        assert fetch(server.url("/a"), headers=SECRET).data == IMAGE
    assert all(b"s3cret" in sent for sent in server.headers)


def test_redirect_gets_the_headers_that_its_own_host_declares() -> None:
    with FaultyServer(response(IMAGE)) as other, FaultyServer(redirect(other.url())) as shop:
        fetch(shop.url(), hosts={other.address: {"headers": {"X-Key": "k3y"}}})
    assert b"k3y" not in shop.headers[0]
    assert b"X-Key: k3y" in other.headers[0]


def test_robots_txt_of_a_redirect_gets_no_headers() -> None:
    pages = {"/robots.txt": response(b"User-agent: *\nAllow: /"), "/a.jpg": response(IMAGE)}
    with FaultyServer(respond_by_path(pages)) as other:
        moved = {"/robots.txt": pages["/robots.txt"], "/a.jpg": redirect(other.url("/a.jpg"))}
        with FaultyServer(respond_by_path(moved)) as shop:
            fetch(shop.url("/a.jpg"), headers=SECRET, respect_robots_txt=True)
    assert other.requests == ["/robots.txt", "/a.jpg"]
    assert not any(b"s3cret" in sent for sent in other.headers)


def test_no_log_of_any_library_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with FaultyServer(response(status=b"403 No")) as server, FaultyServer(b"what?") as proxy:
        assert status_of(server.url(), headers=SECRET) == "http_403"
        proxy_url = f"http://me:s3cret@{proxy.address}"
        assert status_of("http://shop.example/", proxy=proxy_url, headers=SECRET) != "ok"
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("url", ["http://shop.example/a.jpg", "https://shop.example/a.jpg"])
def test_proxy_that_refuses_the_password_is_retryable_and_named(url: str) -> None:
    refusal = response(status=b"407 Proxy Authentication Required")
    with FaultyServer(refusal) as proxy, pytest.raises(FetchError) as failed:
        fetch(url, proxy=f"http://me:s3cret@{proxy.address}")
    assert failed.value.status == "http_407"
    assert is_retryable(failed.value.status)
    assert "s3cret" not in str(failed.value)


def test_accept_language_is_sent_to_every_host() -> None:
    with FaultyServer(response(IMAGE)) as other, FaultyServer(redirect(other.url())) as shop:
        fetch(shop.url(), accept_language="de-CH, de;q=0.9")
    for server in (shop, other):
        assert b"\r\nAccept-Language: de-CH, de;q=0.9\r\n" in server.headers[0]


# ---- cookies ------------------------------------------------------------------------


def cookie_wall(page: bytes) -> FaultyServer:
    """Answers with the page, which sets a cookie, until the cookie is sent."""

    def respond(connection: Connection) -> None:
        has_cookie = b"Cookie: seen=1" in connection.request
        connection.send(response(IMAGE) if has_cookie else page)

    return FaultyServer(respond)


@pytest.mark.parametrize(
    "page",
    [
        redirect("/a.jpg", b"Set-Cookie: seen=1; Path=/; HttpOnly"),
        response(b"<html>", b"Set-Cookie: seen=1", b"Content-Type: text/html; charset=utf-8"),
        response(b"<html>", b"Set-Cookie: seen=1", status=b"403 Forbidden"),
    ],
)
def test_cookie_wall_opens_with_cookies(page: bytes) -> None:
    with cookie_wall(page) as server:
        assert fetch_all([server.url("/a.jpg")] * 3, cookies="per_host") == [IMAGE] * 3
    assert len(server.requests) == 4


def test_cookie_wall_stays_closed_without_cookies() -> None:
    with cookie_wall(redirect("/a.jpg", b"Set-Cookie: seen=1")) as server:
        assert status_of(server.url("/a.jpg")) == "redirect_loop"


def test_cookies_go_to_the_host_that_set_them_only() -> None:
    cookie = b"Set-Cookie: seen=1; Domain=127.0.0.2"
    with (
        FaultyServer(response(IMAGE), host="127.0.0.2") as other,
        FaultyServer(redirect(other.url(), cookie)) as shop,
    ):
        fetch(shop.url(), cookies="per_host", allowed_hosts=("127.0.0.1", "127.0.0.2"))
    assert not any(b"cookie" in sent.lower() for sent in other.headers)


def test_cookie_joins_a_declared_one() -> None:
    pages = {"/a": redirect("/b", b"Set-Cookie: seen=1"), "/b": response(IMAGE)}
    with FaultyServer(respond_by_path(pages)) as server:
        fetch(server.url("/a"), headers={"Cookie": "consent=yes"}, cookies="per_host")
    assert b"\r\nCookie: consent=yes; seen=1\r\n" in server.headers[1]


def test_host_that_sets_a_new_cookie_each_time_ends() -> None:
    counter = iter(range(100))

    def respond(connection: Connection) -> None:
        cookie = b"Set-Cookie: n=%d" % next(counter)
        connection.send(response(b"<html>", cookie, status=b"403 Forbidden"))

    with FaultyServer(respond) as server:
        assert status_of(server.url(), cookies="per_host") == "redirect_loop"
    assert len(server.requests) == 6


# ---- certificates -------------------------------------------------------------------


def test_ca_file_is_trusted_in_addition(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with FaultyServer(response(IMAGE), tls=server_context(certificate)) as server:
        assert status_of(server.url()) == "tls_error"
        assert fetch(server.url(), ca_file=str(certificate)).data == IMAGE


def test_certificate_is_not_verified_for_the_declared_host_only(tmp_path: Path) -> None:
    tls = server_context(self_signed(tmp_path))
    with FaultyServer(response(IMAGE), tls=tls) as server, FaultyServer(IMAGE, tls=tls) as other:
        hosts = {server.address: {"verify_tls": False}}
        assert fetch_all([server.url(), other.url()], hosts=hosts) == [IMAGE, "tls_error"]


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_ca_file_without_certificates_is_an_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"ca_file: .*ca\.pem has no certificates"):
        fetch("http://127.0.0.1/", ca_file=str(path))


# ---- validators ---------------------------------------------------------------------


@pytest.mark.parametrize("etag", [b'"v\x01"', b'"\xff"', b'"' + b"v" * 2000 + b'"', b""])
def test_etag_that_no_request_can_return_is_ignored(etag: bytes) -> None:
    with FaultyServer(response(IMAGE, b"ETag: " + etag, b"Last-Modified: \x02")) as server:
        assert fetch(server.url())[1:3] == (None, None)


@pytest.mark.parametrize("etag", ['"v\x01"', '"\ufffd"', '"v"\r\nX-Evil: 1', "v" * 2000])
def test_stored_etag_that_no_request_can_return_is_not_sent(etag: str) -> None:
    with FaultyServer(response(IMAGE)) as server:
        assert fetch(server.url(), Validators(etag, "Wed, 01 May 2024\x02")).data == IMAGE
    assert b"If-" not in server.headers[0]
    assert b"X-Evil" not in server.headers[0]
