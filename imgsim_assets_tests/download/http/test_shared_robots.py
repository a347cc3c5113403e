"""Runs over one store ask a host for its robots.txt once in ten minutes."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from imgsim_assets.download.http import shared_robots
from imgsim_assets.download.http.shared_robots import SharedRobotsTxt
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.store import Store

ORIGIN = "https://shop.example"
KIND = "as usual"
RULES = "User-agent: *\nCrawl-delay: 2"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Store.open(tmp_path / "store").files


@pytest.fixture(autouse=True)
def _fast_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_robots, "_POLL_S", 0.01)


class Host:
    """Answers after some time, or not at all."""

    def __init__(self, answer: str = RULES, error: Exception | None = None) -> None:
        self._answer = answer
        self._error = error
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        await asyncio.sleep(0.05)
        if self._error is not None:
            raise self._error
        return self._answer


def only_entry(files: Files) -> str:
    (entry,) = files.entries("_robots")
    return f"_robots/{entry.name}"


@pytest.mark.parametrize("answer", [RULES, ""])
def test_of_runs_that_need_it_at_once_one_asks(files: Files, answer: str) -> None:
    host = Host(answer)

    async def all_runs() -> list[str]:
        return await asyncio.gather(
            *(SharedRobotsTxt(files, KIND).get(ORIGIN, host) for _ in range(5))
        )

    assert asyncio.run(all_runs()) == [answer] * 5
    assert asyncio.run(SharedRobotsTxt(files, KIND).get(ORIGIN, host)) == answer
    assert host.asked == 1


def test_origins_have_their_own(files: Files) -> None:
    shared = SharedRobotsTxt(files, KIND)

    assert asyncio.run(shared.get(ORIGIN, Host("a"))) == "a"
    assert asyncio.run(shared.get("http://shop.example", Host("b"))) == "b"


def test_requests_of_another_kind_have_their_own(files: Files) -> None:
    assert asyncio.run(SharedRobotsTxt(files, "a").get(ORIGIN, Host("a"))) == "a"
    assert asyncio.run(SharedRobotsTxt(files, "b").get(ORIGIN, Host("b"))) == "b"


def test_an_error_is_raised_and_the_next_run_asks(files: Files) -> None:
    shared = SharedRobotsTxt(files, KIND)

    with pytest.raises(OSError, match="no answer"):
        asyncio.run(shared.get(ORIGIN, Host(error=OSError("no answer"))))

    assert asyncio.run(shared.get(ORIGIN, Host())) == RULES


def test_a_run_that_is_canceled_leaves_no_claim(files: Files) -> None:
    async def canceled() -> None:
        task = asyncio.create_task(SharedRobotsTxt(files, KIND).get(ORIGIN, Host()))
        while not files.entries("_robots"):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(canceled())

    assert files.entries("_robots") == []


@pytest.mark.parametrize(("text", "age"), [(RULES, 700.0), (RULES, -700.0), (None, 70.0)])
def test_an_old_answer_or_the_claim_of_a_killed_run_counts_no_more(
    files: Files, text: str | None, age: float
) -> None:
    host = Host("new")
    asyncio.run(SharedRobotsTxt(files, KIND).get(ORIGIN, Host()))
    body = {"asked_at": time.time() - age, "text": text}
    files.write(only_entry(files), json.dumps(body).encode())

    assert asyncio.run(SharedRobotsTxt(files, KIND).get(ORIGIN, host)) == "new"
    assert host.asked == 1


def test_a_claim_whose_age_cannot_be_told_is_waited_for_in_vain(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_robots, "_PATIENCE_S", 0.05)
    asyncio.run(SharedRobotsTxt(files, KIND).get(ORIGIN, Host()))
    ahead = {"asked_at": time.time() + 3600, "text": None}
    files.write(only_entry(files), json.dumps(ahead).encode())

    assert asyncio.run(SharedRobotsTxt(files, KIND).get(ORIGIN, Host("new"))) == "new"


@pytest.mark.parametrize("body", [b'{"asked_at"', b"\0\xff", b"null", b"{}", b'{"asked_at": null}'])
def test_a_damaged_file_is_replaced(files: Files, body: bytes) -> None:
    asyncio.run(SharedRobotsTxt(files, KIND).get(ORIGIN, Host()))
    files.write(only_entry(files), body)

    assert asyncio.run(SharedRobotsTxt(files, KIND).get(ORIGIN, Host("new"))) == "new"
