from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from imgsim_assets.service.app import create_app
from imgsim_assets.service.security import COOKIE
from imgsim_assets.service.settings import ServeSettings
from imgsim_assets.storage.store import Store

TOKEN = "a-token-of-24-characters"


def _client(store: Store, host: str = "localhost", **settings: Any) -> TestClient:
    chosen = ServeSettings.model_validate(settings)
    return TestClient(create_app(store, chosen), base_url=f"http://{host}", follow_redirects=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "imgsim.lan", "127.0.0.1.evil"])
def test_other_hosts_than_loopback_need_a_token(host: str) -> None:
    with pytest.raises(ValidationError, match="needs a token"):
        ServeSettings(host=host)

    ServeSettings.model_validate({"host": host, "token": TOKEN})


def test_short_token_is_refused_without_being_shown() -> None:
    with pytest.raises(ValidationError) as raised:
        ServeSettings.model_validate({"token": "hunter2"})

    assert "16 characters" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8400", 200),
        ("127.0.0.1:8400", 200),
        ("[::1]:8400", 200),
        ("10.1.2.3", 200),
        ("imgsim.lan:443", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("imgsim.lan.evil.example", 421),
        ("localhost@evil.example", 421),
        ("2130706433", 421),
        ("", 421),
        ("[", 421),
    ],
)
def test_host_header_has_to_name_the_service(store: Store, host: str, status: int) -> None:
    client = _client(store, allowed_hosts=["imgsim.lan"])

    assert client.get("/api/results", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://localhost"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://localhost.evil.example"}, False),
        ({"Origin": "http://localhost:9999"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://[localhost"}, False),
        ({"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"}, False),
    ],
)
def test_other_sites_cannot_post(store: Store, headers: dict[str, str], is_allowed: bool) -> None:
    response = _client(store).post("/api/query/products", json={"id": "a"}, headers=headers)

    assert (response.status_code == 404) == is_allowed
    assert (response.status_code == 403) == (not is_allowed)


def test_every_response_has_the_security_headers(client: TestClient) -> None:
    for path in ("/api/results", "/nothing", "/static/base.css", "/login"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/api/results").headers["cache-control"] == "no-store"
    refused = client.get("/api/results", headers={"Host": "evil.example"})
    assert "content-security-policy" in refused.headers


def test_token_is_needed_for_everything_but_health_and_the_login_page(store: Store) -> None:
    client = _client(store, token=TOKEN)

    for path in ("/", "/api/results", "/metrics", "/openapi.json", "/api/images/" + "0" * 64):
        assert client.get(path).status_code == 401
    for path in ("/healthz", "/login", "/static/base.css"):
        assert client.get(path).status_code == 200
    assert client.get("/static/../api/results").status_code == 401
    assert client.get("/login/../api/results").status_code == 401
    for shown in (TOKEN[:-1], TOKEN + "x", "", TOKEN.upper(), "é"):
        wrong = {b"Authorization": f"Bearer {shown}".encode()}
        assert client.get("/api/results", headers=wrong).status_code == 401
    for scheme in ("Bearer", "bearer"):
        right = {"Authorization": f"{scheme} {TOKEN}"}
        assert client.get("/api/results", headers=right).status_code == 200


def test_person_logs_in_with_a_cookie_that_is_not_the_token(store: Store) -> None:
    client = _client(store, token=TOKEN, root_path="/imgsim")

    page = client.get("/imgsim/", headers={"Accept": "text/html"})
    wrong = client.post("/imgsim/login", data={"token": "wrong"})
    right = client.post("/imgsim/login", data={"token": TOKEN})

    assert (page.status_code, page.headers["location"]) == (303, "/imgsim/login")
    assert (wrong.status_code, "not the token" in wrong.text) == (401, True)
    assert (right.status_code, right.headers["location"]) == (303, "/imgsim/")
    cookie = right.headers["set-cookie"]
    assert TOKEN not in cookie
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/imgsim"))
    assert client.get("/imgsim/api/results").status_code == 200
    client.post("/imgsim/logout")
    assert client.get("/imgsim/api/results").status_code == 401


def test_token_itself_is_no_cookie(store: Store) -> None:
    client = _client(store, token=TOKEN)
    client.cookies.set(COOKIE, TOKEN)

    assert client.get("/api/results").status_code == 401


@pytest.mark.parametrize("prefix", ["", "/imgsim"])
def test_proxy_may_keep_or_remove_the_root_path(store: Store, prefix: str) -> None:
    client = _client(store, root_path="/imgsim")

    assert client.get(f"{prefix}/api/results").status_code == 200
    assert client.get(f"{prefix}/static/base.css").status_code == 200
    assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/imgsim"}]
    assert client.get("/imgsim2/api/results").status_code == 404
    assert client.get("/imgsim").text == client.get("/imgsim/").text
    assert client.get("/imgsim").status_code == 200
