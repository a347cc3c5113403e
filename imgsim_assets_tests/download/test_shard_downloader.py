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
from imgsim_assets_tests.support.downloads import Catalog, quick, until
from imgsim_assets_tests.support.faulty_server import Connection, Misbehaving, Shop, response
from imgsim_assets_tests.support.images import jpeg

IMAGE = jpeg(1)
BUSY = response(status=b"503 Busy")
WEEK = timedelta(days=7)

# ---- failing hosts ------------------------------------------------------------------


def test_failing_host_is_skipped_and_others_continue(things: Catalog, shop: Shop) -> None:
    said: list[str] = []
    with Misbehaving(BUSY) as dead:
        urls = {f"dead {number:02}": dead.url(f"/{number}") for number in range(40)}
        for number in range(10):
            shop.pages[f"/{number}"] = response(jpeg(number))
            urls[f"good {number}"] = shop.url(f"/{number}")
        things.declare(urls)
        settings = quick(
            circuit_breaker_threshold=5, circuit_breaker_cooldown_s=0.05, max_per_host=2, retries=1
        )
        (report,) = things.run(settings, log=said.append)
        asked = len(dead.requests)
    assert report.statuses["ok"] == 10
    assert report.statuses["http_503"] + report.statuses["skipped_host"] == 40
    assert 6 <= asked <= 8
    assert report.hosts_skipped == [dead.address]
    assert any(f"{dead.address} is skipped in this run" in line for line in said)
    left = [row for row in things.rows().values() if row["status"] == "skipped_host"]
    assert {(row["attempts"], row["retryable"]) for row in left} == {(0, True)}
    assert {row["next_retry_at"] - row["fetched_at"] for row in left} == {timedelta(minutes=5)}


def test_small_host_at_the_end_of_the_list_starts_early(things: Catalog) -> None:
    """So that the deadlines of one that is dead pass while a large host is still at work."""
    asked_before: list[int] = []

    def small(connection: Connection) -> None:
        asked_before.append(len(large.requests))
        connection.send(response(IMAGE))

    with Misbehaving(response(IMAGE)) as large, Misbehaving(small) as other:
        urls = {f"{number:03}": large.url(f"/{number}") for number in range(60)}
        things.declare(urls | {"last": other.url("/last")})
        things.run(quick(max_per_host=2, concurrency=3))
    assert len(asked_before) == 1
    assert asked_before[0] < 30


def test_idle_servers_do_not_delay_other_items(things: Catalog) -> None:
    done_before: list[int] = []

    def once_the_others_are_done(connection: Connection) -> None:
        connection.wait(lambda: len(good.requests) == 40)
        done_before.append(len(good.requests))
        connection.send(response(IMAGE))

    with Misbehaving(once_the_others_are_done) as silent, Misbehaving(response(IMAGE)) as good:
        urls = {f"silent {number}": silent.url(f"/{number}") for number in range(3)}
        urls |= {f"good {number:02}": good.url(f"/{number}") for number in range(40)}
        things.declare(urls)
        (report,) = things.run(quick(concurrency=2, timeout_s=20.0, read_timeout_s=20.0))
    assert report.statuses == {"ok": 43}
    assert done_before == [40] * 3


def test_idle_requests_at_most_double_the_concurrency(things: Catalog) -> None:
    ended = threading.Event()
    asked: list[int] = []

    def after_a_long_silence(connection: Connection) -> None:
        connection.wait(ended.is_set)
        connection.send(response(IMAGE))

    def end() -> None:
        asked.append(len(silent.requests))
        ended.set()

    with Misbehaving(after_a_long_silence) as silent:
        things.declare({f"{number:02}": silent.url(f"/{number}") for number in range(12)})
        threading.Timer(4.0, end).start()
        (report,) = things.run(
            quick(concurrency=3, max_per_host=12, timeout_s=20.0, read_timeout_s=20.0)
        )
    assert report.statuses == {"ok": 12}
    assert asked == [6]


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


def test_host_that_recovers_is_requested_again(things: Catalog) -> None:
    numbers = itertools.count()

    def page(connection: Connection) -> None:
        connection.send(BUSY if next(numbers) < 4 else response(IMAGE))

    with Misbehaving(page) as server:
        things.declare({f"{number}": server.url(f"/{number}") for number in range(20)})
        settings = quick(
            circuit_breaker_threshold=4, circuit_breaker_cooldown_s=0.05, max_per_host=2, retries=2
        )
        (report,) = things.run(settings)
    assert report.statuses == {"ok": 20}


def test_host_with_a_long_retry_after_is_skipped(
    things: Catalog,
) -> None:
    limited = response(b"", b"Retry-After: 3600", status=b"429 Slow down")
    with Misbehaving(limited) as server:
        things.declare({f"{number}": server.url(f"/{number}") for number in range(30)})
        things.run(quick(max_per_host=1))
        assert len(server.requests) == 1
    rows = things.rows().values()
    assert Counter(row["status"] for row in rows) == {"rate_limited": 1, "skipped_host": 29}
    assert {row["next_retry_at"] - row["fetched_at"] for row in rows} == {timedelta(hours=1)}


def test_retry_after_pauses_all_items_of_a_host(things: Catalog) -> None:
    asked: list[float] = []

    def page(connection: Connection) -> None:
        asked.append(time.monotonic())
        slow_down = response(b"", b"Retry-After: 1", status=b"429 Slow down")
        connection.send(slow_down if len(asked) == 1 else response(IMAGE))

    with Misbehaving(page) as server:
        things.declare({f"{number}": server.url(f"/{number}") for number in range(3)})
        things.run(quick(max_per_host=1, retries=1))
    assert set(things.statuses().values()) == {"ok"}
    assert asked[1] - asked[0] >= 1.0


def test_item_that_waits_for_a_retry_occupies_no_slot(things: Catalog) -> None:
    order: list[str] = []

    def page(connection: Connection) -> None:
        order.append(connection.path)
        is_first = order.count(connection.path) == 1 and connection.path == "/0"
        connection.send(BUSY if is_first else response(IMAGE))

    with Misbehaving(page) as server:
        things.declare({f"{number}": server.url(f"/{number}") for number in range(4)})
        things.run(quick(concurrency=1, max_per_host=1, retries=1))
    assert order == ["/0", "/1", "/2", "/3", "/0"]


def test_max_requests_per_second_limits_a_host(things: Catalog, shop: Shop) -> None:
    shop.pages.update({f"/{number}": response(IMAGE) for number in range(6)})
    things.declare({f"{number}": shop.url(f"/{number}") for number in range(6)})
    started = time.monotonic()
    things.run(quick(max_requests_per_second_per_host=20))
    assert time.monotonic() - started >= 5 / 20


@pytest.mark.parametrize("attempt", range(12))
def test_backoff_doubles_with_jitter_up_to_a_limit(attempt: int) -> None:
    longest = min(0.5 * 2**attempt, shard_downloader.MAX_BACKOFF_SECONDS)
    waits = [shard_downloader.backoff(attempt, None) for _ in range(50)]
    assert all(longest / 2 <= wait <= longest for wait in waits)
    assert len(set(waits)) > 1
    assert shard_downloader.backoff(attempt, 7.0) == 7.0


# ---- images that have come of age ---------------------------------------------------


class Versioned:
    """A page that knows conditional requests; `requests` are the headers it has seen."""

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
def page(things: Catalog, shop: Shop) -> Versioned:
    """The page of one item that has been fetched a week ago."""
    versioned = Versioned()
    shop.pages["/a.jpg"] = versioned
    things.declare({"a": shop.url("/a.jpg")})
    things.run()
    things.move_times(-WEEK)
    return versioned


REFRESHING = quick(revalidate_after="7d")


def test_image_is_revalidated_at_its_age_and_not_before(things: Catalog, page: Versioned) -> None:
    assert [report.requested for report in things.run()] == [0]
    assert [report.requested for report in things.run(quick(revalidate_after="8d"))] == [0]
    assert [report.requested for report in things.run(REFRESHING)] == [1]
    assert [report.requested for report in things.run(REFRESHING)] == [0]
    assert len(page.requests) == 2


def test_unchanged_image_is_kept(things: Catalog, page: Versioned) -> None:
    before = things.rows()["a"]
    (report,) = things.run(REFRESHING)
    after = things.rows()["a"]
    assert b'if-none-match: "1"' in page.requests[1]
    assert (report.requested, report.fetched, report.unchanged, report.bytes) == (1, 0, 1, 0)
    assert after["checked_at"] > before["checked_at"]
    assert {**after, "checked_at": None} == {**before, "checked_at": None}


def test_changed_image_is_replaced(things: Catalog, page: Versioned) -> None:
    before = things.rows()["a"]
    page.body, page.etag = jpeg(2), b'"2"'
    (report,) = things.run(REFRESHING)
    after = things.rows()["a"]
    assert (report.requested, report.fetched, report.unchanged) == (1, 1, 0)
    assert after["sha256"] != before["sha256"]
    assert things.store.blobs.get(after["sha256"]) == jpeg(2)


@pytest.mark.parametrize("answer", [BUSY, response(b"gone", status=b"404 Not Found")])
def test_failed_revalidation_keeps_the_image_and_records_the_error(
    things: Catalog, page: Versioned, answer: bytes
) -> None:
    before = things.rows()["a"]
    page.failure = answer
    (report,) = things.run(REFRESHING)
    after = things.rows()["a"]
    status = "http_" + answer.split()[1].decode()
    assert (after["status"], after["revalidation_error"], after["attempts"]) == ("ok", status, 1)
    assert after["sha256"] == before["sha256"]
    assert report.statuses == {"ok": 1}
    assert report.revalidation_errors == {status: 1}
    assert [report.requested for report in things.run(REFRESHING)] == [0]
    page.failure = None
    assert [report.requested for report in things.run(REFRESHING, retry="all")] == [1]
    assert things.rows()["a"]["revalidation_error"] is None


def test_image_reported_missing_is_requested_without_conditions(
    things: Catalog, page: Versioned
) -> None:
    things.store.blobs.report_missing(things.rows()["a"]["sha256"])
    things.run(REFRESHING)
    assert b"if-none-match" not in page.requests[1]
    assert things.store.blobs.get(things.rows()["a"]["sha256"]) == IMAGE


def test_missing_image_that_was_not_reported_is_requested_without_conditions(
    things: Catalog, page: Versioned
) -> None:
    sha256 = things.rows()["a"]["sha256"]
    remove_blob(things.store, sha256)
    (report,) = things.run(REFRESHING)
    assert b"if-none-match" not in page.requests[1]
    assert (report.requested, report.unchanged) == (1, 0)
    assert Store.open(things.store.url).blobs.get(sha256) == IMAGE


def test_response_304_to_a_first_request_is_a_failure(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(b"", status=b"304 Not Modified")
    things.declare({"a": shop.url("/a.jpg")})
    things.run()
    assert things.statuses() == {"a": "http_304"}


# ---- what a person asks for ---------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "asked"),
    [("all", {"/busy", "/gone"}), ("retryable", {"/busy"}), ("none", set())],
)
def test_retry_selects_the_failures_that_are_retried(
    things: Catalog, shop: Shop, retry: Retry, asked: set[str]
) -> None:
    shop.pages.update({"/busy": BUSY, "/good": response(IMAGE)})
    things.declare({path: shop.url(path) for path in ("/busy", "/gone", "/good")})
    things.run()
    things.move_retries(-timedelta(days=1))
    before = shop.gets
    things.run(retry=retry)
    assert set(shop.gets - before) == asked


def test_retry_all_includes_failures_that_are_not_due(things: Catalog, shop: Shop) -> None:
    shop.pages["/busy"] = BUSY
    things.declare({"busy": shop.url("/busy")})
    things.run()
    things.run(retry="all")
    assert shop.gets == {"/busy": 2}


# ---- manners ------------------------------------------------------------------------


def test_x_robots_tag_is_respected_unless_disabled(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(IMAGE, b"X-Robots-Tag: noimageai")
    things.declare({"a": shop.url("/a.jpg")})
    things.run()
    assert things.statuses() == {"a": "robots_disallowed"}
    things.run()
    assert len(shop.requests) == 1
    things.run(quick(respect_x_robots_tag=False))
    assert things.statuses() == {"a": "ok"}


def test_robots_txt_is_fetched_once_and_obeyed(things: Catalog, shop: Shop) -> None:
    rules = b"User-agent: *\nDisallow: /private"
    shop.pages.update({"/robots.txt": response(rules), "/a.jpg": response(IMAGE)})
    things.declare({path: shop.url(path) for path in ("/a.jpg", "/private/b.jpg")}, shards=2)
    things.run(quick(respect_robots_txt=True))
    assert things.statuses() == {"/a.jpg": "ok", "/private/b.jpg": "robots_disallowed"}
    assert shop.gets == {"/robots.txt": 1, "/a.jpg": 1}


def test_missing_robots_txt_allows_everything(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    things.declare({"a": shop.url("/a.jpg")})
    things.run(quick(respect_robots_txt=True))
    assert things.statuses() == {"a": "ok"}


def test_unreachable_robots_txt_fails_items_of_its_host_as_retryable(
    things: Catalog, shop: Shop
) -> None:
    shop.pages.update({"/robots.txt": BUSY, "/a.jpg": response(IMAGE)})
    things.declare({"a": shop.url("/a.jpg")})
    things.run(quick(respect_robots_txt=True))
    row = things.rows()["a"]
    assert (row["status"], row["retryable"]) == ("http_503", True)
    assert row["detail"].startswith("robots.txt:")
    assert set(shop.gets) == {"/robots.txt"}


# ---- other sources ------------------------------------------------------------------


def test_row_may_name_an_object_below_an_allowed_prefix(things: Catalog, s3_root: str) -> None:
    with fsspec.open(f"{s3_root}/a.jpg", "wb") as file:
        file.write(IMAGE)
    things.declare({"a": f"{s3_root}/a.jpg", "b": "s3://another/b.jpg"})
    things.run()
    assert things.statuses() == {"a": "blocked_path", "b": "blocked_path"}
    settings = quick(allowed_url_prefixes=(s3_root,), revalidate_after="7d", timeout_s=10)
    things.run(settings)
    assert things.statuses() == {"a": "ok", "b": "blocked_path"}
    things.move_times(-WEEK)
    assert [report.unchanged for report in things.run(settings)] == [1]


# ---- several runs at once -----------------------------------------------------------


def test_run_discards_items_that_another_run_has_fetched(
    things: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 0.05)

    def page(connection: Connection) -> None:
        time.sleep(0.02)
        connection.send(response(IMAGE))

    with Misbehaving(page) as server:
        things.declare({f"item {number}": server.url(f"/{number}") for number in range(150)})
        other = things.start(quick(max_per_host=2), commit_every=0.05)
        until(lambda: things.committed() > 0)
        things.run(quick(max_per_host=2))
        assert other.wait(60) == 0
        other.communicate()
        asked = len(server.requests)
    assert set(things.statuses().values()) == {"ok"}
    # Not all of both, which would be near 300: only what falls between two commits.
    assert asked < 225
