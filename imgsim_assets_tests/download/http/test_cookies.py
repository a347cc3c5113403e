from __future__ import annotations

import pytest

from imgsim_assets.download.http.cookies import HostCookies


def test_cookies_of_a_host_are_joined_and_replaced() -> None:
    cookies = HostCookies()
    assert cookies.update("a", ["x=1; Path=/; Secure", 'y="2"; Max-Age=9'])
    assert cookies.update("a", ["x=3"])
    assert cookies.header("a") == 'x=3; y="2"'


def test_same_cookie_again_is_no_change() -> None:
    cookies = HostCookies()
    cookies.update("a", ["x=1"])
    assert not cookies.update("a", ["x=1; Expires=Wed, 01 May 2030 12:00:00 GMT"])


def test_hosts_have_their_own_cookies() -> None:
    cookies = HostCookies()
    cookies.update("a", ["x=1; Domain=b"])
    assert cookies.header("b") is None


@pytest.mark.parametrize("header", ["x=\u20ac", "x=1\r\nEvil: 1", "x=" + "1" * 5000, "", "=", ";"])
def test_cookie_that_cannot_be_sent_is_ignored(header: str) -> None:
    cookies = HostCookies()
    assert not cookies.update("a", [header])
    assert cookies.header("a") is None


def test_number_of_cookies_is_limited() -> None:
    cookies = HostCookies()
    cookies.update("a", [f"n{number}=1" for number in range(1000)])
    assert len((cookies.header("a") or "").split("; ")) == 50
