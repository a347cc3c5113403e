"""Names that resolve first to a public and then to an internal address; no packet leaves."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from imgsim_assets.download.http import address
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.status import FetchError
from imgsim_assets_tests.support.downloads import fast_settings

_PUBLIC, _PUBLIC_V6 = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"
_INTERNAL = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1"]


class _Names:
    """A resolver: each look-up of a name takes the next answer, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.lookups = 0

    def __call__(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        answer = self._answers[min(self.lookups, len(self._answers) - 1)]
        self.lookups += 1
        return [_info(each, port) for each in answer]


def _info(text: str, port: int) -> tuple[Any, ...]:
    if ":" in text:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (text, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port)


@pytest.fixture
def dialed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The addresses of connections that the guard let through, none of which is made."""
    attempts: list[str] = []

    class Blocked(socket.socket):
        def connect(self, target: Any) -> None:
            attempts.append(target[0])
            raise OSError(errno.EHOSTUNREACH, "blocked by the test")

    names = {name: getattr(socket, name) for name in ("AF_INET", "AF_INET6")}
    monkeypatch.setattr(address, "socket", SimpleNamespace(socket=Blocked, **names))
    yield attempts
    assert not [text for text in attempts if not address.is_public(text)]


def _statuses(names: _Names, monkeypatch: pytest.MonkeyPatch, *urls: str) -> list[str]:
    monkeypatch.setattr(socket, "getaddrinfo", names)

    async def each() -> list[str]:
        statuses = []
        for url in urls:
            async with HttpClient(fast_settings()) as client:  # with an empty cache of names
                try:
                    await client.fetch(url)
                except FetchError as error:
                    statuses.append(error.status)
        return statuses

    return asyncio.run(each())


@pytest.mark.parametrize("internal", _INTERNAL)
def test_a_name_that_turns_internal_is_blocked_at_its_second_lookup(
    internal: str, dialed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _Names([_PUBLIC], [internal])
    url = "http://rebinding.example/x.jpg"

    assert _statuses(names, monkeypatch, url, url) == ["connection_error", "blocked_address"]

    assert names.lookups == 2
    assert set(dialed) == {_PUBLIC}


@pytest.mark.parametrize("internal", _INTERNAL)
@pytest.mark.parametrize("public", [_PUBLIC, _PUBLIC_V6])
def test_an_internal_address_behind_a_public_one_in_one_answer_is_never_dialed(
    internal: str, public: str, dialed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _Names([public, internal])

    assert _statuses(names, monkeypatch, "http://rebinding.example/x.jpg") == ["blocked_address"]

    assert set(dialed) <= {public}


def test_a_public_name_is_dialed(dialed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = _statuses(_Names([_PUBLIC]), monkeypatch, "https://public.example/x.jpg")

    assert statuses == ["connection_error"]
    assert dialed == [_PUBLIC]  # the socket of the test is the one that the client uses
