"""Runs over one store at the same time: together they keep the limits of each host."""

from __future__ import annotations

import http.server
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.download.scheduling import host_shares
from imgsim_assets.download.scheduling.active_runs import FOLDER
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.downloads import Catalog, fast_settings, wait_until
from imgsim_assets_tests.support.images import jpeg
from imgsim_assets_tests.support.web import Web


class Load:
    """Counts the requests that are answered at the same time; each takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._body = jpeg(1)
        self.active = self.most = 0
        self.starts: list[float] = []

    def __call__(self, request: http.server.BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.starts.append(time.monotonic())
            self.active += 1
            self.most = max(self.most, self.active)
        time.sleep(self._seconds)
        with self._lock:
            self.active -= 1
        request.send_response(200)
        request.send_header("Content-Length", str(len(self._body)))
        request.end_headers()
        request.wfile.write(self._body)


@pytest.fixture
def catalog(store: Store, tmp_path: Path) -> Catalog:
    return Catalog(store, tmp_path)


def declare(catalog: Catalog, web: Web, load: Load, count: int) -> None:
    """Two shards of a catalog whose images are all on one host."""
    paths = [f"/{number}.jpg" for number in range(count)]
    web.pages.update(dict.fromkeys(paths, load))
    catalog.declare({path: web.url(path) for path in paths}, shards=2)


def run_both(catalog: Catalog, **settings: object) -> None:
    """Run the shards at the same time, each with a store of its own."""
    runs = [Catalog(Store.open(catalog.store.url), catalog.folder) for _ in range(2)]
    for each in runs:
        each.shards = 2
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: runs[n].run(fast_settings(**settings), only=[n]), range(2)))
    assert set(catalog.statuses().values()) == {"ok"}
    assert catalog.store.files.entries(FOLDER) == []


@pytest.fixture
def _fast_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_shares, "_POLL_SECONDS", 0.02)


@pytest.mark.usefixtures("_fast_polls")
def test_two_runs_keep_max_per_host_together(catalog: Catalog, web: Web) -> None:
    load = Load(0.02)
    declare(catalog, web, load, 60)

    run_both(catalog, max_per_host=4)

    assert len(load.starts) == 60
    assert 2 <= load.most <= 4


@pytest.mark.usefixtures("_fast_polls")
def test_two_runs_keep_the_rate_of_a_host_together(catalog: Catalog, web: Web) -> None:
    load = Load(0.0)
    declare(catalog, web, load, 30)

    run_both(catalog, max_requests_per_second_per_host=40)

    # As many requests as fit into the time at this rate, but for the jitter of a single one.
    assert load.starts[-1] - load.starts[0] >= 28 / 40


@pytest.mark.usefixtures("_fast_polls")
def test_two_runs_keep_the_crawl_delay_of_a_host_together(catalog: Catalog, web: Web) -> None:
    load = Load(0.0)
    declare(catalog, web, load, 16)
    web.pages["/robots.txt"] = b"User-agent: *\nCrawl-delay: 0.05\n"

    run_both(catalog, respect_robots_txt=True)

    assert web.gets["/robots.txt"] == 1
    assert load.most == 1
    assert load.starts[-1] - load.starts[0] >= 14 * 0.05


@pytest.mark.parametrize(
    "other",
    [
        {"user_agent": "other/1"},
        {"accept_language": "de"},
        {"hosts": {"127.0.0.1": {"headers": {"X-Token": "t0ken"}}}},
    ],
)
def test_a_run_that_sends_other_headers_asks_for_robots_txt_itself(
    other: dict[str, Any], catalog: Catalog, web: Web
) -> None:
    web.pages["/a.jpg"] = web.pages["/b.jpg"] = jpeg(1)
    catalog.declare({"a": web.url("/a.jpg")})
    catalog.run(fast_settings(respect_robots_txt=True))
    assert catalog.statuses() == {"a": "ok"}

    web.pages["/robots.txt"] = b"User-agent: *\nDisallow: /b.jpg"
    catalog.declare({"a": web.url("/a.jpg"), "b": web.url("/b.jpg")})
    catalog.run(fast_settings(respect_robots_txt=True, **other))

    assert catalog.statuses() == {"a": "ok", "b": "robots_disallowed"}


def test_a_crawl_delay_of_hours_is_a_refusal(catalog: Catalog, web: Web) -> None:
    declare(catalog, web, Load(0.0), 2)
    web.pages["/robots.txt"] = b"User-agent: *\nCrawl-delay: 86400\n"

    catalog.run(fast_settings(respect_robots_txt=True))

    rows = catalog.rows().values()
    assert {row["status"] for row in rows} == {"robots_disallowed"}
    assert {row["detail"] for row in rows} == {"robots.txt: Crawl-delay of 86400 s"}


@pytest.mark.slow
@pytest.mark.parametrize("root", [None, "localbucket_root"])
def test_two_processes_keep_max_per_host_and_a_killed_one_gives_its_share_back(
    root: str | None, tmp_path: Path, web: Web, request: pytest.FixtureRequest
) -> None:
    url = f"{request.getfixturevalue(root)}/store" if root else str(tmp_path / "store")
    catalog = Catalog(Store.open(url), tmp_path)
    load = Load(0.1)
    declare(catalog, web, load, 1200)
    settings = fast_settings(max_per_host=8)
    runs = [catalog.start(settings, commit_every=1.0, only=[shard]) for shard in range(2)]
    try:
        # Each run has two files.
        wait_until(lambda: len(catalog.store.files.entries(FOLDER)) == 4, 120)
        before = len(load.starts)
        wait_until(lambda: len(load.starts) > before + 150, 120)
        assert load.most <= 8

        runs[1].kill()
        runs[1].wait(30)
        load.most = 0

        out, error = runs[0].communicate(timeout=240)
        assert runs[0].returncode == 0, error
        assert '"ok"' in out
        assert load.most == 8  # half of which was that of the killed run
        assert catalog.store.files.entries(FOLDER) == []
    finally:
        for process in runs:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_two_processes_keep_the_rate_of_a_host_together(catalog: Catalog, web: Web) -> None:
    load = Load(0.0)
    declare(catalog, web, load, 120)
    settings = fast_settings(max_requests_per_second_per_host=20)
    runs = [catalog.start(settings, only=[shard]) for shard in range(2)]

    for process in runs:
        out, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
        assert out

    assert len(load.starts) == 120
    assert load.starts[-1] - load.starts[0] >= 118 / 20
