"""Requests of the HTTP client against loopback servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from imgsim_assets.download.fetched import Fetched, Validators
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.status import FetchError
from imgsim_assets_tests.support.downloads import fast_settings


def fetch(url: str, cached: Validators | None = None, **settings: Any) -> Fetched:
    """What the client returns for a URL."""

    async def once() -> Fetched:
        async with HttpClient(fast_settings(**settings)) as client:
            return await client.fetch(url, cached)

    return asyncio.run(once())


def status_of(url: str, **settings: Any) -> str:
    """The status of a URL."""
    try:
        fetch(url, **settings)
    except FetchError as error:
        return error.status
    return "ok"


def fetch_all(urls: Sequence[str], **settings: Any) -> list[bytes | str]:
    """The bytes, or the status of the failure, of URLs that one client requests in turn."""

    async def in_turn() -> list[bytes | str]:
        outcomes: list[bytes | str] = []
        async with HttpClient(fast_settings(**settings)) as client:
            for url in urls:
                try:
                    outcomes.append((await client.fetch(url)).data or b"")
                except FetchError as error:
                    outcomes.append(error.status)
        return outcomes

    return asyncio.run(in_turn())
