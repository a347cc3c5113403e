from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from imgsim_assets.download.http.urls import (
    host_of,
    is_same_site,
    parse_url,
    redirect_target,
)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://shop.example/a.jpg", "shop.example:80"),
        ("https://shop.example/a.jpg", "shop.example:443"),
        ("http://Shop.Example:8080/A.jpg", "shop.example:8080"),
        ("https://[::1]:9/a.jpg", "::1:9"),
        ("http://[::1/a.jpg", ""),
        ("http://shop.example:port/a.jpg", ""),
        ("images/a.jpg", ""),
        ("/images/a.jpg", ""),
    ],
)
def test_host_of_returns_host_and_port(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    "url", ["http://shop.example:80/", "http://shop.example./", "http://@shop.example/"]
)
def test_host_of_normalizes_spellings_of_a_host(url: str) -> None:
    assert host_of(url) == host_of("http://shop.example/")


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("http://h/a/b/../../ok.jpg", "http://h/ok.jpg"),
        ("http://h/./ok.jpg", "http://h/ok.jpg"),
        ("http://h/a/..", "http://h/"),
        ("http://h/a/.", "http://h/a/"),
        ("http://h/../../ok.jpg", "http://h/ok.jpg"),
        ("http://h/a//../ok.jpg", "http://h/a/ok.jpg"),
        ("http://h/%2e%2E/%2e/ok.jpg", "http://h/ok.jpg"),
        ("http://h/.hidden/..a/b../c.%2fd", "http://h/.hidden/..a/b../c.%2fd"),
        ("http://h/a.jpg?path=../b", "http://h/a.jpg?path=../b"),
        ("http://h/a.jpg#/../b", "http://h/a.jpg"),
        ("http://h\\a\\b.jpg?x=\\y", "http://h/a/b.jpg?x=%5Cy"),
        ("http://127.0.0.1\\@shop.example/", "http://127.0.0.1/@shop.example/"),
        ("  http://h/a.jpg \t", "http://h/a.jpg"),
        ("HTTP://H.Example:80/A.jpg", "http://h.example/A.jpg"),
        ("http://b\u00fccher.example/\u00e4.jpg", "http://xn--bcher-kva.example/%C3%A4.jpg"),
    ],
)
def test_url_is_normalized_as_browsers_do(url: str, requested: str) -> None:
    assert str(parse_url(url)) == requested


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("../x.jpg", "http://h/a/x.jpg"),
        ("../../../x.jpg", "http://h/x.jpg"),
        ("./x y.jpg", "http://h/a/b/x%20y.jpg"),
        ("/\u00e4.jpg", "http://h/%C3%A4.jpg"),
        ("//other/x.jpg", "http://other/x.jpg"),
        ("\\x.jpg", "http://h/x.jpg"),
        ("?page=2", "http://h/a/b/c.jpg?page=2"),
        ("#top", "http://h/a/b/c.jpg?page=1"),
        ("", "http://h/a/b/c.jpg?page=1"),
    ],
)
def test_location_is_relative_to_the_url(location: str, target: str) -> None:
    assert str(redirect_target(URL("http://h/a/b/c.jpg?page=1"), location)) == target


@given(st.lists(st.sampled_from(["a", "", ".", "..", "%2e", "%2E.", "b..", "..."]), max_size=8))
def test_normalized_path_has_no_dot_segments_and_stays_as_it_is(segments: list[str]) -> None:
    url = str(parse_url("http://h/" + "/".join(segments)))
    path = url.removeprefix("http://h/")
    assert not {".", "..", "%2e", "%2E."} & set(path.split("/"))
    assert str(parse_url(url)) == url


@pytest.mark.parametrize(
    ("target", "is_same"),
    [
        ("http://h/b", True),
        ("https://h/b", True),
        ("http://h:8080/b", False),
        ("https://h:8443/b", False),
        ("http://other/b", False),
        ("http://h.example/b", False),
    ],
)
def test_same_site_is_the_same_host_and_port_or_https_of_it(target: str, is_same: bool) -> None:
    assert is_same_site(URL("http://h/a"), URL(target)) is is_same
