from __future__ import annotations

import gzip
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from imgsim_assets.download.fetched import Fetched, Validators
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.ledger import shard_ledger, writer
from imgsim_assets.download.ledger.rows import retry_wait
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import PendingCommit, replace_shard
from imgsim_assets.storage.packs import list_packs
from imgsim_assets.storage.shards import Shard, shard_index
from imgsim_assets_tests.support.damage import read_blobs, remove_blob
from imgsim_assets_tests.support.downloads import NAME, TIMES, Catalog, fast_settings
from imgsim_assets_tests.support.faulty_server import (
    Connection,
    PageServer,
    Responder,
    redirect,
    response,
)
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.web import Web

IMAGE = jpeg(1)
BUSY = response(status=b"503 Busy")

# ---- what is fetched ----------------------------------------------------------------


def test_ledger_committed_and_compacted_in_many_parts_equals_that_of_one_part(
    catalog: Catalog, shop: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page(connection: Connection) -> None:
        # Requests 41 to 80 are those of the second catalog: two commits happen among them.
        if len(shop.requests) in (60, 80):
            connection.wait(lambda: len(catalog.table.versions()) >= len(shop.requests) // 20 - 2)
        number = int(connection.path[1:])
        missing = response(status=b"404 Not Found")
        connection.send(missing if number % 2 else response(jpeg(number)))

    shop.pages.update({f"/{number}": page for number in range(40)})
    urls = {f"item {number * 7 % 40}": shop.url(f"/{number}") for number in range(40)}
    whole = catalog.sibling("whole")
    whole.declare(urls)
    (expected,) = whole.run()
    with monkeypatch.context() as small:
        small.setattr(shard_ledger, "_MIN_RANGE_ROWS", 3)
        small.setattr(writer, "_ROWS_PER_FRAME", 2)
        small.setattr(writer, "_MAX_PENDING_ROWS", 4)
        catalog.declare(urls)
        patient = fast_settings(max_per_host=1, timeout_s=30, read_timeout_s=30)
        (report,) = catalog.run(patient)
        assert not catalog.run()[0].changed
    assert len(catalog.table.versions()) > 2
    assert len(catalog.commit().files) == 1
    rows = catalog.table.read(catalog.commit())
    assert rows["id"].is_sorted()
    assert rows.drop(TIMES).equals(whole.ledger().drop(TIMES))
    assert report.data_version == expected.data_version
    assert report.statuses == expected.statuses == {"http_404": 20, "ok": 20}


def test_first_run_fetches_everything_and_second_run_nothing(catalog: Catalog, web: Web) -> None:
    web.pages.update({f"/{number}.jpg": jpeg(number) for number in range(9)})
    catalog.declare({f"item {number}": web.url(f"/{number}.jpg") for number in range(9)}, shards=3)
    first = catalog.run()
    assert web.gets == {f"/{number}.jpg": 1 for number in range(9)}
    assert [report.changed for report in first] == [True] * 3
    for number in range(9):
        row = catalog.rows()[f"item {number}"]
        assert catalog.store.blobs.get(row["sha256"]) == jpeg(number)
        assert (row["status"], row["bytes"]) == ("ok", len(jpeg(number)))
        assert (row["width"], row["height"], row["format"]) == (160, 120, "JPEG")
    before = file_times(catalog)
    second = catalog.run()
    assert web.total_gets == 9
    assert file_times(catalog) == before
    assert [(report.changed, report.requested) for report in second] == [(False, 0)] * 3
    assert [r.data_version for r in second] == [r.data_version for r in first]


def test_report_counts_items_requests_and_bytes(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    catalog.declare({"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg"), "c": "missing.jpg"})
    [report] = catalog.run()
    assert (report.items, report.requested, report.removed_items) == (3, 3, 0)
    assert (report.bytes, report.version) == (len(IMAGE), 1)
    assert report.statuses == {"http_404": 1, "missing_file": 1, "ok": 1}


def test_only_items_with_a_changed_url_are_fetched_again(
    catalog: Catalog, shop: PageServer
) -> None:
    shop.pages.update({f"/{name}.jpg": response(jpeg(ord(name))) for name in "abc"})
    catalog.declare({"1": shop.url("/a.jpg"), "2": shop.url("/b.jpg")}, shards=2)
    before = catalog.run()
    catalog.declare({"1": shop.url("/a.jpg"), "2": shop.url("/c.jpg")}, shards=2)
    after = catalog.run()
    assert shop.gets == {"/a.jpg": 1, "/b.jpg": 1, "/c.jpg": 1}
    assert catalog.store.blobs.get(catalog.rows()["2"]["sha256"]) == jpeg(ord("c"))
    assert Counter(report.changed for report in after) == {True: 1, False: 1}
    assert [r.data_version for r in before] != [r.data_version for r in after]


def test_ledger_without_newer_columns_is_continued(catalog: Catalog, web: Web) -> None:
    web.pages.update({"/1.jpg": jpeg(1), "/2.jpg": jpeg(2)})
    catalog.declare({"a": web.url("/1.jpg")})
    catalog.run()
    older = catalog.table.write_rows(catalog.ledger().drop("checked_at", "revalidation_error"))
    catalog.table.commit(
        lambda base: PendingCommit(
            replace_shard(base, Shard(0, 1), [older]),
            inputs=catalog.commit().inputs,
            properties=catalog.commit().properties,
        )
    )
    catalog.declare({"a": web.url("/1.jpg"), "b": web.url("/2.jpg")})

    catalog.run()

    assert web.gets == {"/1.jpg": 1, "/2.jpg": 1}
    assert catalog.statuses() == {"a": "ok", "b": "ok"}


def test_only_new_items_are_fetched(catalog: Catalog, shop: PageServer) -> None:
    shop.pages.update({f"/{name}.jpg": response(IMAGE) for name in "ab"})
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run()
    catalog.declare({"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg")})
    catalog.run()
    assert shop.gets == {"/a.jpg": 1, "/b.jpg": 1}
    assert catalog.statuses() == {"a": "ok", "b": "ok"}


def test_removed_item_leaves_the_ledger(catalog: Catalog, shop: PageServer) -> None:
    shop.pages.update({f"/{name}.jpg": response(IMAGE) for name in "ab"})
    catalog.declare({"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg")})
    catalog.run()
    catalog.declare({"a": shop.url("/a.jpg")})
    [report] = catalog.run()
    assert (report.removed_items, report.requested, report.items) == (1, 0, 1)
    assert catalog.statuses() == {"a": "ok"}
    assert len(shop.requests) == 2


def test_item_that_returns_is_fetched_again(catalog: Catalog, shop: PageServer) -> None:
    shop.pages.update({f"/{name}.jpg": response(IMAGE) for name in "ab"})
    both = {"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg")}
    for urls in (both, {"a": shop.url("/a.jpg")}, both):
        catalog.declare(urls)
        catalog.run()
    assert shop.gets == {"/a.jpg": 1, "/b.jpg": 2}
    assert catalog.statuses() == {"a": "ok", "b": "ok"}


def test_retryable_failure_is_retried_only_when_due(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = BUSY
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run()
    shop.pages["/a.jpg"] = response(IMAGE)
    catalog.run()
    assert catalog.statuses() == {"a": "http_503"}
    catalog.shift_retries(-retry_wait(1) + timedelta(seconds=60))
    catalog.run()
    assert shop.gets == {"/a.jpg": 1}
    catalog.shift_retries(-timedelta(seconds=61))
    catalog.run()
    assert shop.gets == {"/a.jpg": 2}
    row = catalog.rows()["a"]
    assert (row["status"], row["attempts"], row["next_retry_at"]) == ("ok", 0, None)


def test_lasting_failure_is_retried_at_growing_intervals(
    catalog: Catalog, shop: PageServer
) -> None:
    shop.pages["/a.jpg"] = BUSY
    catalog.declare({"a": shop.url("/a.jpg")})
    for failures in (1, 2, 3):
        catalog.run()
        row = catalog.rows()["a"]
        assert row["attempts"] == failures
        assert row["next_retry_at"] - row["fetched_at"] == retry_wait(failures)
        catalog.shift_retries(-timedelta(days=1))
    assert shop.gets == {"/a.jpg": 3}


def test_permanent_failure_is_not_retried(catalog: Catalog, shop: PageServer) -> None:
    catalog.declare({"a": shop.url("/missing.jpg")})
    for _ in range(3):
        catalog.run(fast_settings(retries=2))
        catalog.shift_retries(-timedelta(days=365))
    assert shop.gets == {"/missing.jpg": 1}
    assert catalog.statuses() == {"a": "http_404"}


def test_missing_image_is_fetched_again(catalog: Catalog, shop: PageServer) -> None:
    shop.pages.update({"/a.jpg": response(IMAGE), "/b.jpg": response(jpeg(2))})
    catalog.declare({"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg")})
    catalog.run()
    sha256 = lose_image(catalog, "a")
    [report] = catalog.run()
    assert (report.requested, report.statuses) == (1, {"ok": 2})
    assert shop.gets == {"/a.jpg": 2, "/b.jpg": 1}
    assert catalog.store.blobs.get(sha256) == IMAGE
    catalog.run()
    assert len(shop.requests) == 3


def test_missing_local_image_is_read_again(catalog: Catalog) -> None:
    (catalog.folder / "a.jpg").write_bytes(IMAGE)
    catalog.declare({"a": "a.jpg"})
    catalog.run()
    sha256 = lose_image(catalog, "a")
    [report] = catalog.run()
    assert report.requested == 1
    assert catalog.store.blobs.get(sha256) == IMAGE


def test_missing_image_that_is_gone_from_the_web_has_the_new_status(
    catalog: Catalog, shop: PageServer
) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    catalog.declare({"a": shop.url("/a.jpg")})
    [before] = catalog.run()
    lose_image(catalog, "a")
    del shop.pages["/a.jpg"]
    [after] = catalog.run()
    row = catalog.rows()["a"]
    assert (row["status"], row["sha256"]) == ("http_404", None)
    assert after.data_version != before.data_version


def test_image_behind_two_urls_is_stored_once(catalog: Catalog, shop: PageServer) -> None:
    shop.pages.update({f"/{name}.jpg": response(IMAGE) for name in "ab"})
    catalog.declare({"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg")})
    catalog.run()
    rows = catalog.rows()
    assert rows["a"]["sha256"] == rows["b"]["sha256"]
    assert read_blobs(catalog.store) == {rows["a"]["sha256"]: IMAGE}
    [pack] = list_packs(catalog.store.files)
    assert pack.size < 2 * len(IMAGE)


def test_changed_number_of_shards_fetches_nothing_again(catalog: Catalog, shop: PageServer) -> None:
    urls = {f"item {number}": shop.url(f"/{number}.jpg") for number in range(12)}
    shop.pages.update({f"/{number}.jpg": response(jpeg(number)) for number in range(10)})
    catalog.declare(urls, shards=1)
    catalog.run()
    before = catalog.ledger()
    for shards in (4, 3, 1):
        catalog.declare(urls, shards=shards)
        reports = catalog.run()
        assert sum(report.items for report in reports) == 12
        assert catalog.ledger().equals(before)
        assert len(catalog.commit().files) == shards
        assert not any(report.changed for report in catalog.run())
    assert len(shop.requests) == 12


def test_items_change_while_only_some_shards_were_rewritten(
    catalog: Catalog, shop: PageServer
) -> None:
    urls = {f"item {number}": shop.url(f"/{number}.jpg") for number in range(12)}
    shop.pages.update({f"/{number}.jpg": response(jpeg(number)) for number in range(13)})
    catalog.declare(urls, shards=2)
    catalog.run()
    catalog.declare(urls, shards=3)
    catalog.run(only=[1])
    del urls["item 0"]
    urls["item 1"] = shop.url("/12.jpg")
    catalog.declare(urls, shards=3)
    catalog.run(only=[0])
    catalog.run(only=[2])
    catalog.run(only=[1])
    assert catalog.statuses() == dict.fromkeys(urls, "ok")
    assert catalog.rows()["item 1"]["url"] == shop.url("/12.jpg")
    assert len(shop.requests) == 13


def test_returning_to_the_former_number_of_shards_loses_nothing(
    catalog: Catalog, shop: PageServer
) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    names = [f"item {number}" for number in range(60)]
    first = [name for name in names if shard_index(name, 2) == 0]
    moved = next(name for name in first if shard_index(name, 3) == 0)
    last = next(name for name in names if shard_index(name, 2) == 1)
    urls = {name: shop.url("/a.jpg") for name in names if name not in (moved, last)}
    catalog.declare(urls, shards=2)
    catalog.run()
    urls[moved] = shop.url("/a.jpg")
    catalog.declare(urls, shards=3)
    catalog.run(only=[0])
    urls[last] = shop.url("/a.jpg")
    catalog.declare(urls, shards=2)
    catalog.run()
    assert catalog.statuses() == dict.fromkeys(urls, "ok")


def test_catalog_that_was_never_ingested_is_an_error(catalog: Catalog) -> None:
    with pytest.raises(StoreError, match=f"{NAME}/items has no version yet"):
        catalog.run()


def test_empty_catalog_has_an_empty_ledger(catalog: Catalog) -> None:
    catalog.declare({})
    [first] = catalog.run()
    [second] = catalog.run()
    assert (first.items, first.changed, second.changed) == (0, True, False)
    assert catalog.statuses() == {}


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [
        pytest.param({"allowed_hosts": ()}, {}, "blocked_address", id="allowed_hosts"),
        pytest.param({"max_megabytes": 0.001}, {}, "too_large", id="max_megabytes"),
        pytest.param({"max_pixels": 100}, {}, "too_many_pixels", id="max_pixels"),
        pytest.param({"max_redirects": 0}, {}, "redirect_loop", id="max_redirects"),
    ],
)
def test_changed_setting_retries_what_it_had_refused(
    catalog: Catalog, shop: PageServer, before: dict[str, Any], after: dict[str, Any], status: str
) -> None:
    shop.pages.update({"/a.jpg": redirect("/b.jpg"), "/b.jpg": response(IMAGE)})
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run(fast_settings(**before))
    assert catalog.statuses() == {"a": status}
    assert [report.changed for report in catalog.run(fast_settings(**before))] == [False]
    catalog.run(fast_settings(**after))
    assert catalog.statuses() == {"a": "ok"}


def test_changed_settings_retry_refusals_only(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    catalog.declare({"a": shop.url("/a.jpg"), "b": shop.url("/missing.jpg")})
    catalog.run()
    assert [report.changed for report in catalog.run(fast_settings(max_megabytes=1))] == [False]
    assert len(shop.requests) == 2


def test_repeated_refusal_is_not_retried_with_the_same_settings(
    catalog: Catalog, shop: PageServer
) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    catalog.declare({"a": shop.url("/a.jpg")})
    for megabytes in (0.001, 0.002, 0.002):
        catalog.run(fast_settings(max_megabytes=megabytes))
    assert shop.gets == {"/a.jpg": 2}
    assert catalog.rows()["a"]["attempts"] == 2


def test_settings_and_number_of_shards_may_change_together(
    catalog: Catalog, shop: PageServer
) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    urls = {f"item {number}": shop.url("/a.jpg") for number in range(6)}
    catalog.declare(urls, shards=2)
    catalog.run(fast_settings(max_megabytes=0.001))
    catalog.declare(urls, shards=3)
    catalog.run()
    assert catalog.statuses() == dict.fromkeys(urls, "ok")


def test_changed_number_of_shards_keeps_refusals_without_a_request(
    catalog: Catalog, shop: PageServer
) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    urls = {f"item {number}": shop.url("/a.jpg") for number in range(6)}
    for shards in (2, 3):
        catalog.declare(urls, shards=shards)
        catalog.run(fast_settings(max_megabytes=0.001))
    assert catalog.statuses() == dict.fromkeys(urls, "too_large")
    assert len(shop.requests) == 6


# ---- outcomes of an item ------------------------------------------------------------


def test_every_outcome_is_a_status_in_the_ledger(catalog: Catalog, shop: PageServer) -> None:
    bomb = gzip.compress(bytes(5_000_000))
    shop.pages.update(
        {
            "/ok": response(IMAGE),
            "/png": response(encoded(make_image(2), "PNG")),
            "/moved": redirect("/ok"),
            "/http_500": response(status=b"500 Oops"),
            "/rate_limited": response(status=b"429 Slow down"),
            "/short": response(IMAGE, length=len(IMAGE) + 1),
            "/empty": response(),
            "/declared": response(length=10**12),
            "/undeclared": lambda connection: connection.send_repeatedly(OPEN_END),
            "/bomb": response(bomb, b"Content-Encoding: gzip"),
            "/html": response(b"<!DOCTYPE html><title>Sorry</title>", b"Content-Type: image/jpeg"),
            "/svg": response(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
            "/pixels": response(encoded(make_image(3, (2000, 1000)), "PNG")),
            "/loop": redirect("/loop"),
            "/inside": redirect("http://10.0.0.1/"),
            "/file": redirect("file:///etc/passwd"),
            "/headers": response(IMAGE, b"X: " + b"a" * 300_000),
            "/garbage": b"\x00\xff" * 100 + b"\r\n\r\n",
            "/silent": lambda connection: connection.send_repeatedly(b"", 0.05),
            "/hang-up": b"",
        }
    )
    expected = {
        "/ok": "ok",
        "/png": "ok",
        "/moved": "ok",
        "/nowhere": "http_404",
        "/http_500": "http_500",
        "/rate_limited": "rate_limited",
        "/short": "truncated_body",
        "/empty": "truncated_body",
        "/declared": "too_large",
        "/undeclared": "too_large",
        "/bomb": "too_large",
        "/html": "not_image",
        "/svg": "unsupported_format",
        "/pixels": "too_many_pixels",
        "/loop": "redirect_loop",
        "/inside": "blocked_address",
        "/file": "bad_url",
        "/headers": "protocol_error",
        "/garbage": "protocol_error",
        "/silent": "timeout",
        "/hang-up": "connection_error",
    }
    elsewhere = {
        "http://no-such-shop.invalid/a.jpg": "dns_error",
        "http://192.168.0.1/a.jpg": "blocked_address",
        "missing.jpg": "missing_file",
        "../outside.jpg": "blocked_path",
        "/etc/passwd": "blocked_path",
    }
    catalog.declare({path: shop.url(path) for path in expected} | {url: url for url in elsewhere})
    chosen = fast_settings(
        max_megabytes=0.5, max_pixels=1_000_000, concurrency=4, timeout_s=4, read_timeout_s=2
    )
    (report,) = catalog.run(chosen)
    assert catalog.statuses() == expected | elsewhere
    assert (report.requested, report.fetched) == (len(expected) + len(elsewhere), 3)
    for row in catalog.rows().values():
        good = row["status"] == "ok"
        assert (row["sha256"] is not None, row["detail"] is None) == (good, good)
        assert (row["next_retry_at"] is not None) == row["retryable"]
        assert row["attempts"] == (0 if good else 1)


def test_retryable_failure_is_retried_within_the_run(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = one_after_another(BUSY, response(IMAGE))
    catalog.declare({"a": shop.url("/a.jpg")})
    [report] = catalog.run(fast_settings(retries=2))
    assert shop.gets == {"/a.jpg": 2}
    assert (report.requested, report.statuses) == (1, {"ok": 1})
    assert catalog.rows()["a"]["attempts"] == 0


def test_lasting_failure_uses_all_retries_of_a_run(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = BUSY
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run(fast_settings(retries=2))
    assert shop.gets == {"/a.jpg": 3}
    assert catalog.rows()["a"]["attempts"] == 1


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(response(b"<html>"), id="not_image"),
        pytest.param(response(status=b"403 No"), id="http_403"),
        pytest.param(response(length=10**12), id="too_large"),
    ],
)
def test_permanent_failure_takes_one_request(
    catalog: Catalog, shop: PageServer, page: bytes
) -> None:
    shop.pages["/a.jpg"] = page
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run(fast_settings(retries=2))
    assert shop.gets == {"/a.jpg": 1}


def test_retry_after_is_respected_within_the_run(catalog: Catalog, shop: PageServer) -> None:
    request_times: list[float] = []

    def page(connection: Connection) -> None:
        request_times.append(time.monotonic())
        slow_down = response(b"", b"Retry-After: 1", status=b"429 Slow down")
        connection.send(slow_down if len(request_times) == 1 else response(IMAGE))

    shop.pages["/a.jpg"] = page
    catalog.declare({"a": shop.url("/a.jpg")})
    catalog.run(fast_settings(retries=1))
    assert catalog.statuses() == {"a": "ok"}
    assert request_times[1] - request_times[0] >= 1.0


def test_long_retry_after_is_respected_by_the_next_run(catalog: Catalog, shop: PageServer) -> None:
    shop.pages["/a.jpg"] = response(b"", b"Retry-After: 3600", status=b"429 Slow down")
    catalog.declare({"a": shop.url("/a.jpg")})
    started = time.monotonic()
    catalog.run(fast_settings(retries=3))
    assert shop.gets == {"/a.jpg": 1}
    assert time.monotonic() - started < 600
    row = catalog.rows()["a"]
    assert row["next_retry_at"] - row["fetched_at"] == timedelta(hours=1)
    catalog.shift_retries(-timedelta(minutes=59))
    catalog.run()
    assert shop.gets == {"/a.jpg": 1}
    catalog.shift_retries(-timedelta(minutes=1))
    catalog.run()
    assert shop.gets == {"/a.jpg": 2}


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1/a.jpg",
        "http://[shop]/a.jpg",
        "http://a\u2100b/a.jpg",
        "file:///a%00b.jpg",
        "file://[a/b.jpg",
    ],
)
def test_malformed_url_fails_only_its_item(catalog: Catalog, shop: PageServer, url: str) -> None:
    shop.pages["/good.jpg"] = response(IMAGE)
    catalog.declare({"bad": url, "good": shop.url("/good.jpg")})
    catalog.run()
    statuses = catalog.statuses()
    assert statuses["good"] == "ok"
    assert statuses.get("bad", "rejected") != "ok"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(response(IMAGE, b'ETag: "caf\xe9"'), id="etag"),
        pytest.param(response(IMAGE, b"Last-Modified: 1 ao\xfbt 2024"), id="last-modified"),
        pytest.param(response(status=b"404 N\xe3o encontrado"), id="reason"),
        pytest.param(
            response(b"", b"Retry-After: Wed, 01 Jan 99999999999 00:00:00 GMT", status=b"503 Busy"),
            id="retry-after",
        ),
    ],
)
def test_malformed_header_fails_only_its_item(
    catalog: Catalog, shop: PageServer, page: bytes
) -> None:
    shop.pages.update({"/strange.jpg": page, "/good.jpg": response(IMAGE)})
    catalog.declare({"strange": shop.url("/strange.jpg"), "good": shop.url("/good.jpg")})
    catalog.run()
    assert catalog.statuses()["good"] == "ok"


def test_unexpected_exception_fails_only_its_item(
    catalog: Catalog, shop: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = HttpClient.fetch

    async def fetch(fetcher: HttpClient, url: str, cached: Validators | None) -> Fetched:
        if url.endswith("/bad.jpg"):
            raise RuntimeError("dictionary changed size")
        return await real(fetcher, url, cached)

    monkeypatch.setattr(HttpClient, "fetch", fetch)
    messages: list[str] = []
    shop.pages["/good.jpg"] = response(IMAGE)
    catalog.declare({"bad": shop.url("/bad.jpg"), "good": shop.url("/good.jpg")})
    catalog.run(log=messages.append)
    assert catalog.statuses() == {"bad": "internal_error", "good": "ok"}
    row = catalog.rows()["bad"]
    assert (row["detail"], row["retryable"]) == ("RuntimeError: dictionary changed size", True)
    assert "bad: RuntimeError: dictionary changed size" in messages


# ---- helpers ------------------------------------------------------------------------


OPEN_END = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(65536)


def one_after_another(*pages: bytes) -> Responder:
    left = list(pages)
    return lambda connection: connection.send(left.pop(0))


def file_times(catalog: Catalog) -> dict[str, int]:
    """Every file of the store with its modification time."""
    root = Path(catalog.store.url)
    return {
        str(path.relative_to(root.parent)): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file()
    }


def lose_image(catalog: Catalog, item: str) -> str:
    """Delete the image of an item, and report it as missing, as a reader does."""
    sha256: str = catalog.rows()[item]["sha256"]
    remove_blob(catalog.store, sha256)
    catalog.store.blobs.report_missing(sha256)
    return sha256
