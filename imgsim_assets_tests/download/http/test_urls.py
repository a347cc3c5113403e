from __future__ import annotations

import pytest

from imgsim_assets.download.http.urls import host_of


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
