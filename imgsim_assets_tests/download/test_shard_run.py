from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from imgsim_assets.download import shard_run, stage
from imgsim_assets.download.ledger import writer
from imgsim_assets.storage.shards import Shard
from imgsim_assets_tests.support.downloads import NAME, TIMES, Catalog, fast_settings
from imgsim_assets_tests.support.faulty_server import (
    Connection,
    FaultyServer,
    PageServer,
    Responder,
    redirect,
    response,
)
from imgsim_assets_tests.support.images import jpeg

IMAGE = jpeg(1)
BUSY = response(status=b"503 Busy")

# ---- concurrency --------------------------------------------------------------------


def test_slow_host_delays_only_its_own_items(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    done_in_time: list[bool] = []

    def slow(connection: Connection) -> None:
        done_in_time.append(connection.wait(lambda: shop.gets["/a.jpg"] == 30))
        connection.send(response(IMAGE))

    with FaultyServer(slow) as slow_shop:
        urls = {f"slow {number}": slow_shop.url() for number in range(4)}
        urls |= {f"quick {number}": shop.url("/a.jpg") for number in range(30)}
        catalog.declare(urls)
        catalog.run(fast_settings(concurrency=4, max_per_host=2, timeout_s=30, read_timeout_s=30))
    assert done_in_time == [True] * 4
    assert catalog.statuses() == dict.fromkeys(urls, "ok")


@pytest.mark.parametrize("limit", [1, 3])
def test_max_per_host_limits_concurrent_requests(catalog: Catalog, limit: int) -> None:
    def page(connection: Connection) -> None:
        connection.wait(lambda: server.max_concurrent >= limit)
        time.sleep(0.05)  # in which more than allowed would come
        connection.send(response(IMAGE))

    with FaultyServer(page) as server:
        catalog.declare({str(number): server.url(f"/{number}") for number in range(12)})
        catalog.run(fast_settings(concurrency=16, max_per_host=limit))
    assert server.max_concurrent == limit
    assert len(server.requests) == 12


def test_max_per_host_includes_retries(catalog: Catalog) -> None:
    with FaultyServer(slow_page(BUSY)) as server:
        catalog.declare({str(number): server.url(f"/{number}") for number in range(4)})
        catalog.run(fast_settings(concurrency=16, max_per_host=2, retries=1))
    assert server.max_concurrent <= 2
    assert len(server.requests) == 8


def test_concurrency_limits_requests_to_all_hosts(catalog: Catalog) -> None:
    gauge = Gauge(expected=5)
    with ExitStack() as stack:
        servers = [stack.enter_context(FaultyServer(gauge.answer)) for _ in range(4)]
        urls = [server.url(f"/{number}") for server in servers for number in range(4)]
        catalog.declare({url: url for url in urls})
        catalog.run(fast_settings(concurrency=5, max_per_host=4))
    assert gauge.peak == 5


def test_max_per_host_includes_redirects(catalog: Catalog) -> None:
    with ExitStack() as stack:
        images = stack.enter_context(FaultyServer(slow_page(response(IMAGE))))
        shops = [stack.enter_context(FaultyServer(redirect(images.url()))) for _ in range(4)]
        catalog.declare({server.address: server.url() for server in shops})
        catalog.run(fast_settings(concurrency=16, max_per_host=1))
    assert images.max_concurrent == 1


def test_concurrency_does_not_change_the_ledger(catalog: Catalog, shop: PageServer) -> None:
    for number in range(24):
        kind = number % 6
        shop.pages[f"/{number}"] = (
            response(jpeg(number), b'ETag: "%d"' % number)
            if kind < 3
            else [BUSY, response(b"<html>"), redirect("/0")][kind - 3]
        )
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(26)}
    other = catalog.sibling("other")
    for other_catalog, settings, shards in (
        (catalog, fast_settings(concurrency=1, max_per_host=1), 2),
        (other, fast_settings(concurrency=32, max_per_host=16), 5),
    ):
        other_catalog.declare(urls, shards=shards)
        other_catalog.run(settings)
    assert catalog.ledger().drop(TIMES).equals(other.ledger().drop(TIMES))
    assert len(catalog.ledger()["status"].unique()) == 4


# ---- commits ------------------------------------------------------------------------


def test_long_run_commits_regularly_and_ends_with_one_file(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 0.05)
    seen: list[int] = []

    def page(connection: Connection) -> None:
        if len(server.requests) == 20:
            connection.wait(lambda: catalog.committed_rows() >= 10)
            seen.append(catalog.committed_rows())
        connection.send(response(jpeg(len(server.requests))))

    with FaultyServer(page) as server:
        catalog.declare({str(number): server.url(f"/{number}") for number in range(20)})
        catalog.run(fast_settings(max_per_host=1, timeout_s=30, read_timeout_s=30))
    assert seen
    assert 10 <= seen[0] < 20
    assert len(catalog.table.versions()) > 1
    assert [(file.rows, file.is_snapshot) for file in catalog.commit().files] == [(20, True)]


def test_on_commit_makes_commits_more_frequent(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 3600)
    monkeypatch.setattr(shard_run, "_PIPELINED_COMMIT_EVERY_SECONDS", 0.05)
    committed_shards: list[Shard] = []

    def page(connection: Connection) -> None:
        if len(server.requests) == 10:
            connection.wait(lambda: bool(committed_shards))
        connection.send(response(jpeg(len(server.requests))))

    with FaultyServer(page) as server:
        catalog.declare({str(number): server.url(f"/{number}") for number in range(10)})
        settings = fast_settings(max_per_host=1, timeout_s=30, read_timeout_s=30)
        with stage.ImagesStage(
            catalog.store, NAME, settings, on_commit=committed_shards.append
        ) as images:
            images.run(Shard(0, 1))
    assert set(committed_shards) == {Shard(0, 1)}
    assert set(catalog.statuses().values()) == {"ok"}


def test_very_long_run_keeps_few_delta_files(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 0.001)
    monkeypatch.setattr(writer, "_MAX_DELTA_FILES", 3)

    def page(connection: Connection) -> None:
        request_count = len(server.requests)
        connection.wait(lambda: catalog.committed_rows() >= request_count - 1)
        connection.send(response(jpeg(request_count)))

    with FaultyServer(page) as server:
        urls = {f"item {number:02}": server.url(f"/{number}") for number in range(12)}
        catalog.declare(urls)
        catalog.run(fast_settings(max_per_host=1, timeout_s=30, read_timeout_s=30))
    commits = [catalog.table.at(version) for version in catalog.table.versions()]
    assert len(commits) >= 12
    assert max(len(commit.files) for commit in commits) == 4
    heights = [catalog.table.read(commit).height for commit in commits]
    assert heights == sorted(heights)
    assert catalog.statuses() == dict.fromkeys(urls, "ok")
    assert [(file.rows, file.is_snapshot) for file in catalog.commit().files] == [(12, True)]


def test_ledger_records_the_version_of_the_catalog(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run()
    assert catalog.commit().inputs == {"items": 1}
    catalog.declare({"a": shop.url("/a.jpg"), "b": shop.url("/a.jpg")})
    catalog.run()
    assert catalog.commit().inputs == {"items": 2}


def test_older_version_of_the_ledger_stays_readable(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run()
    pinned = catalog.commit()
    catalog.declare({"b": shop.url("/a.jpg")})
    catalog.run()
    assert catalog.table.read(pinned)["id"].to_list() == ["a"]
    assert catalog.statuses() == {"b": "ok"}


# ---- helpers ------------------------------------------------------------------------


class Gauge:
    """Answers once so many requests came at once; records the peak of concurrent ones in `peak`."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self.peak = 0
        self._active = 0
        self._lock = threading.Lock()

    def answer(self, connection: Connection) -> None:
        with self._lock:
            self._active += 1
            self.peak = max(self.peak, self._active)
        connection.wait(lambda: self.peak >= self._expected)
        time.sleep(0.05)  # in which more than allowed would come
        with self._lock:
            self._active -= 1
        connection.send(response(IMAGE))


def slow_page(page: bytes) -> Responder:
    def respond(connection: Connection) -> None:
        time.sleep(0.05)
        connection.send(page)

    return respond
