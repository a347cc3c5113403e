from __future__ import annotations

from urllib.request import build_opener

import pytest

from imgsim_assets.demo.loopback import open_loopback
from imgsim_assets_tests.support.faulty_server import FaultyServer, response


def test_server_of_this_machine_is_asked_past_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with FaultyServer(response(b"here")) as server:
        with open_loopback(server.url(), timeout=30) as answer:
            assert answer.read() == b"here"
        with pytest.raises(OSError, match="refused"):
            build_opener().open(server.url(), timeout=30)
