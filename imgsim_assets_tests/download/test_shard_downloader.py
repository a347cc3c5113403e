from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from datetime import timedelta

import fsspec
import pytest

from imgsim_assets.download import shard_downloader, shard_run
from imgsim_assets.download.settings import Retry
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.damage import remove_blob
from imgsim_assets_tests.support.downloads import Catalog, fast_settings, wait_until
from imgsim_assets_tests.support.faulty_server import Connection, FaultyServer, PageServer, response
from imgsim_assets_tests.support.images import jpeg

IMAGE = jpeg(1)
BUSY = response(status=b"503 Busy")
WEEK = timedelta(days=7)

# ---- failing hosts ------------------------------------------------------------------


def test_failing_host_is_skipped_and_others_continue(catalog: Catalog, shop: PageServer) -> None:
    messages: list[str] = []
    with FaultyServer(BUSY) as dead:
        urls = {f"dead {number:02}": dead.url(f"/{number}") for number in range(40)}
        for number in range(10):
            shop.pages[f"/{number}"] = response(jpeg(number))
            urls[f"good {number}"] = shop.url(f"/{number}")
        catalog.declare(urls)
        settings = fast_settings(
            circuit_breaker_threshold=5, circuit_breaker_cooldown_s=0.05, max_per_host=2, retries=1
        )
        (report,) = catalog.run(settings, log=messages.append)
        request_count = len(dead.requests)
    assert report.statuses["ok"] == 10
    assert report.statuses["http_503"] + report.statuses["skipped_host"] == 40
    assert 6 <= request_count <= 8
    assert report.hosts_skipped == [dead.address]
    assert any(f"{dead.address} is skipped in this run" in line for line in messages)
    left = [row for row in catalog.rows().values() if row["status"] == "skipped_host"]
    assert {(row["attempts"], row["retryable"]) for row in left} == {(0, True)}
    assert {row["next_retry_at"] - row["fetched_at"] for row in left} == {timedelta(minutes=5)}


def test_small_host_at_the_end_of_the_list_starts_early(catalog: Catalog) -> None:
    """The timeouts of a dead small host then pass while a large host is still at work."""
    asked_before: list[int] = []

    def small(connection: Connection) -> None:
        asked_before.append(len(large.requests))
        connection.send(response(IMAGE))

    with FaultyServer(response(IMAGE)) as large, FaultyServer(small) as other:
        urls = {f"{number:03}": large.url(f"/{number}") for number in range(60)}
        catalog.declare(urls | {"last": other.url("/last")})
        catalog.run(fast_settings(max_per_host=2, concurrency=3))
    assert len(asked_before) == 1
    assert asked_before[0] < 30


def test_idle_servers_do_not_delay_other_items(catalog: Catalog) -> None:
    done_before: list[int] = []

    def once_the_others_are_done(connection: Connection) -> None:
        connection.wait(lambda: len(good.requests) == 40)
        done_before.append(len(good.requests))
        connection.send(response(IMAGE))

    with FaultyServer(once_the_others_are_done) as silent, FaultyServer(response(IMAGE)) as good:
        urls = {f"silent {number}": silent.url(f"/{number}") for number in range(3)}
        urls |= {f"good {number:02}": good.url(f"/{number}") for number in range(40)}
        catalog.declare(urls)
        (report,) = catalog.run(fast_settings(concurrency=2, timeout_s=20.0, read_timeout_s=20.0))
    assert report.statuses == {"ok": 43}
    assert done_before == [40] * 3


def test_idle_requests_at_most_double_the_concurrency(catalog: Catalog) -> None:
    ended = threading.Event()
    request_counts: list[int] = []

    def after_a_long_silence(connection: Connection) -> None:
        connection.wait(ended.is_set)
        connection.send(response(IMAGE))

    def end() -> None:
        wait_until(lambda: len(silent.requests) >= 6)
        time.sleep(2.0)  # in which idle requests would let others start
        request_counts.append(len(silent.requests))
        ended.set()

    with FaultyServer(after_a_long_silence) as silent:
        catalog.declare({f"{number:02}": silent.url(f"/{number}") for number in range(12)})
        threading.Thread(target=end).start()
        (report,) = catalog.run(
            fast_settings(concurrency=3, max_per_host=12, timeout_s=20.0, read_timeout_s=20.0)
        )
    assert report.statuses == {"ok": 12}
    assert request_counts == [6]


def test_wait_for_event_does_not_swallow_a_cancellation() -> None:
    async def wait() -> None:
        event = asyncio.Event()
        waiting = asyncio.create_task(shard_downloader.wait_for_event(event, 30))
        await asyncio.sleep(0.05)
        event.set()
        waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(wait())


def test_host_that_recovers_is_requested_again(catalog: Catalog) -> None:
    numbers = itertools.count()

    def page(connection: Connection) -> None:
        connection.send(BUSY if next(numbers) < 4 else response(IMAGE))

    with FaultyServer(page) as server:
        catalog.declare({f"{number}": server.url(f"/{number}") for number in range(20)})
        settings = fast_settings(
            circuit_breaker_threshold=4, circuit_breaker_cooldown_s=0.05, max_per_host=2, retries=2
        )
        (report,) = catalog.run(settings)
    assert report.statuses == {"ok": 20}


def test_host_with_a_long_retry_after_is_skipped(
    catalog: Catalog,
) -> None:
    limited = response(b"", b"Retry-After: 3600", status=b"429 Slow down")
    with FaultyServer(limited) as server:
        catalog.declare({f"{number}": server.url(f"/{number}") for number in range(30)})
        catalog.run(fast_settings(max_per_host=1))
        assert len(server.requests) == 1
    rows = catalog.rows().values()
    assert Counter(row["status"] for row in rows) == {"rate_limited": 1, "skipped_host": 29}
    assert {row["next_retry_at"] - row["fetched_at"] for row in rows} == {timedelta(hours=1)}


def test_retry_after_pauses_all_items_of_a_host(catalog: Catalog) -> None:
    request_times: list[float] = []

    def page(connection: Connection) -> None:
        request_times.append(time.monotonic())
        slow_down = response(b"", b"Retry-After: 1", status=b"429 Slow down")
        connection.send(slow_down if len(request_times) == 1 else response(IMAGE))

    with FaultyServer(page) as server:
        catalog.declare({f"{number}": server.url(f"/{number}") for number in range(3)})
        catalog.run(fast_settings(max_per_host=1, retries=1))
    assert set(catalog.statuses().values()) == {"ok"}
    assert request_times[1] - request_times[0] >= 1.0


def test_item_that_waits_for_a_retry_occupies_no_slot(catalog: Catalog) -> None:
    order: list[str] = []

    def page(connection: Connection) -> None:
        order.append(connection.path)
        is_first = order.count(connection.path) == 1 and connection.path == "/0"
        connection.send(BUSY if is_first else response(IMAGE))

    with FaultyServer(page) as server:
        catalog.declare({f"{number}": server.url(f"/{number}") for number in range(4)})
        catalog.run(fast_settings(concurrency=1, max_per_host=1, retries=1))
    assert order == ["/0", "/1", "/2", "/3", "/0"]


def test_max_requests_per_second_limits_a_host(catalog: Catalog, shop: PageServer) -> None:
    shop.pages.update({f"/{number}": response(IMAGE) for number in range(6)})
    catalog.declare({f"{number}": shop.url(f"/{number}") for number in range(6)})
    started = time.monotonic()
    catalog.run(fast_settings(max_requests_per_second_per_host=20))
    assert time.monotonic() - started >= 5 / 20


@pytest.mark.parametrize("attempt", range(12))
def test_backoff_doubles_with_jitter_up_to_a_limit(attempt: int) -> None:
    longest = min(0.5 * 2**attempt, shard_downloader.MAX_BACKOFF_SECONDS)
    waits = [shard_downloader.backoff(attempt, None) for _ in range(50)]
    assert all(longest / 2 <= wait <= longest for wait in waits)
    assert len(set(waits)) > 1
    assert shard_downloader.backoff(attempt, 7.0) == 7.0


# ---- revalidation -------------------------------------------------------------------


class Versioned:
    """A page that answers conditional requests; `requests` are the headers it received."""

    def __init__(self) -> None:
        self.body = IMAGE
        self.etag = b'"1"'
        self.requests: list[bytes] = []
        self.failure: bytes | None = None

    def __call__(self, connection: Connection) -> None:
        self.requests.append(connection.request.lower())
        if self.failure is not None:
            connection.send(self.failure)
        elif b"if-none-match: " + self.etag in connection.request.lower():
            connection.send(response(b"", b"ETag: " + self.etag, status=b"304 Not Modified"))
        else:
            connection.send(response(self.body, b"ETag: " + self.etag))


@pytest.fixture
def page(catalog: Catalog, shop: PageServer) -> Versioned:
    """The page of one item that was fetched a week ago."""
    versioned = Versioned()
    shop.pages["/a.jpg"] = versioned
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run()
    catalog.shift_times(-WEEK)
    return versioned


REVALIDATING = fast_settings(revalidate_after="7d")


def test_image_is_revalidated_at_its_age_and_not_before(catalog: Catalog, page: Versioned) -> None:
    assert [report.requested for report in catalog.run()] == [0]
    assert [report.requested for report in catalog.run(fast_settings(revalidate_after="8d"))] == [0]
    assert [report.requested for report in catalog.run(REVALIDATING)] == [1]
    assert [report.requested for report in catalog.run(REVALIDATING)] == [0]
    assert len(page.requests) == 2


def test_unchanged_image_is_kept(catalog: Catalog, page: Versioned) -> None:
    before = catalog.rows()["a"]
    (report,) = catalog.run(REVALIDATING)
    after = catalog.rows()["a"]
    assert b'if-none-match: "1"' in page.requests[1]
    assert (report.requested, report.fetched, report.unchanged, report.bytes) == (1, 0, 1, 0)
    assert after["checked_at"] > before["checked_at"]
    assert {**after, "checked_at": None} == {**before, "checked_at": None}


def test_changed_image_is_replaced(catalog: Catalog, page: Versioned) -> None:
    before = catalog.rows()["a"]
    page.body, page.etag = jpeg(2), b'"2"'
    (report,) = catalog.run(REVALIDATING)
    after = catalog.rows()["a"]
    assert (report.requested, report.fetched, report.unchanged) == (1, 1, 0)
    assert after["sha256"] != before["sha256"]
    assert catalog.store.blobs.get(after["sha256"]) == jpeg(2)


@pytest.mark.parametrize("answer", [BUSY, response(b"gone", status=b"404 Not Found")])
def test_failed_revalidation_keeps_the_image_and_records_the_error(
    catalog: Catalog, page: Versioned, answer: bytes
) -> None:
    before = catalog.rows()["a"]
    page.failure = answer
    (report,) = catalog.run(REVALIDATING)
    after = catalog.rows()["a"]
    status = "http_" + answer.split()[1].decode()
    assert (after["status"], after["revalidation_error"], after["attempts"]) == ("ok", status, 1)
    assert after["sha256"] == before["sha256"]
    assert report.statuses == {"ok": 1}
    assert report.revalidation_errors == {status: 1}
    assert [report.requested for report in catalog.run(REVALIDATING)] == [0]
    page.failure = None
    assert [report.requested for report in catalog.run(REVALIDATING, retry="all")] == [1]
    assert catalog.rows()["a"]["revalidation_error"] is None


def test_image_reported_missing_is_requested_without_conditions(
    catalog: Catalog, page: Versioned
) -> None:
    catalog.store.blobs.report_missing(catalog.rows()["a"]["sha256"])
    catalog.run(REVALIDATING)
    assert b"if-none-match" not in page.requests[1]
    assert catalog.store.blobs.get(catalog.rows()["a"]["sha256"]) == IMAGE


def test_missing_image_that_was_not_reported_is_requested_without_conditions(
    catalog: Catalog, page: Versioned
) -> None:
    sha256 = catalog.rows()["a"]["sha256"]
    remove_blob(catalog.store, sha256)
    (report,) = catalog.run(REVALIDATING)
    assert b"if-none-match" not in page.requests[1]
    assert (report.requested, report.unchanged) == (1, 0)
    assert Store.open(catalog.store.url).blobs.get(sha256) == IMAGE


def test_response_304_to_a_first_request_is_a_failure(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = response(b"", status=b"304 Not Modified")
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run()
    assert catalog.statuses() == {"a": "http_304"}


# ---- retry --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "retried"),
    [("all", {"/busy", "/gone"}), ("retryable", {"/busy"}), ("none", set())],
)
def test_retry_selects_the_failures_that_are_retried(
    catalog: Catalog, shop: PageServer, retry: Retry, retried: set[str]
) -> None:
    shop.pages.update({"/busy": BUSY, "/good": response(IMAGE)})
    catalog.declare({path: shop.url(path) for path in ("/busy", "/gone", "/good")})
    catalog.run()
    catalog.shift_retries(-timedelta(days=1))
    before = shop.gets
    catalog.run(retry=retry)
    assert set(shop.gets - before) == retried


def test_retry_all_includes_failures_that_are_not_due(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/busy"] = BUSY
    catalog.declare({"busy": shop.url("/busy")})
    catalog.run()
    catalog.run(retry="all")
    assert shop.gets == {"/busy": 2}


# ---- robots rules and object stores -------------------------------------------------


def test_x_robots_tag_is_respected_unless_disabled(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = response(IMAGE, b"X-Robots-Tag: noimageai")
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run()
    assert catalog.statuses() == {"a": "robots_disallowed"}
    catalog.run()
    assert len(shop.requests) == 1
    catalog.run(fast_settings(respect_x_robots_tag=False))
    assert catalog.statuses() == {"a": "ok"}


def test_robots_txt_is_fetched_once_and_obeyed(catalog: Catalog, shop: PageServer) -> None:
    rules = b"User-agent: *\nDisallow: /private"
    shop.pages.update({"/robots.txt": response(rules), "/a.jpg": response(IMAGE)})
    catalog.declare({path: shop.url(path) for path in ("/a.jpg", "/private/b.jpg")}, shards=2)
    catalog.run(fast_settings(respect_robots_txt=True))
    assert catalog.statuses() == {"/a.jpg": "ok", "/private/b.jpg": "robots_disallowed"}
    assert shop.gets == {"/robots.txt": 1, "/a.jpg": 1}


def test_missing_robots_txt_allows_everything(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run(fast_settings(respect_robots_txt=True))
    assert catalog.statuses() == {"a": "ok"}


def test_unreachable_robots_txt_fails_items_of_its_host_as_retryable(
    catalog: Catalog, shop: PageServer
) -> None:
    shop.pages.update({"/robots.txt": BUSY, "/a.jpg": response(IMAGE)})
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run(fast_settings(respect_robots_txt=True))
    row = catalog.rows()["a"]
    assert (row["status"], row["retryable"]) == ("http_503", True)
    assert row["detail"].startswith("robots.txt:")
    assert set(shop.gets) == {"/robots.txt"}


# ---- other sources ------------------------------------------------------------------


def test_row_may_name_an_object_below_an_allowed_prefix(catalog: Catalog, s3_root: str) -> None:
    with fsspec.open(f"{s3_root}/a.jpg", "wb") as file:
        file.write(IMAGE)
    catalog.declare({"a": f"{s3_root}/a.jpg", "b": "s3://another/b.jpg"})
    catalog.run()
    assert catalog.statuses() == {"a": "blocked_path", "b": "blocked_path"}
    settings = fast_settings(allowed_url_prefixes=(s3_root,), revalidate_after="7d", timeout_s=10)
    catalog.run(settings)
    assert catalog.statuses() == {"a": "ok", "b": "blocked_path"}
    catalog.shift_times(-WEEK)
    assert [report.unchanged for report in catalog.run(settings)] == [1]


# ---- several runs at once -----------------------------------------------------------


def test_run_discards_items_that_another_run_has_fetched(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 0.05)

    def page(connection: Connection) -> None:
        time.sleep(0.02)
        connection.send(response(IMAGE))

    with FaultyServer(page) as server:
        catalog.declare({f"item {number}": server.url(f"/{number}") for number in range(150)})
        other = catalog.start(fast_settings(max_per_host=2), commit_every=0.05)
        wait_until(lambda: catalog.committed_rows() > 0)
        catalog.run(fast_settings(max_per_host=2))
        assert other.wait(600) == 0
        other.communicate()
        request_count = len(server.requests)
    assert set(catalog.statuses().values()) == {"ok"}
    # Without discarding, both runs would send nearly 300 requests.
    assert request_count < 225
