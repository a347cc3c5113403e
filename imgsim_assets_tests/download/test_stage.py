from __future__ import annotations

import gzip
import os
import threading
import time
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from imgsim_assets.download import shard_run, stage
from imgsim_assets.download.fetched import Fetched, Validators
from imgsim_assets.download.files.image_folder import ImageFolder
from imgsim_assets.download.http.client import HttpClient
from imgsim_assets.download.ledger import shard_ledger, writer
from imgsim_assets.download.ledger.rows import retry_wait
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import PendingCommit, replace_shard
from imgsim_assets.storage.packs import list_packs
from imgsim_assets.storage.shards import Shard, shard_index
from imgsim_assets_tests.support.damage import read_blobs, remove_blob
from imgsim_assets_tests.support.downloads import NAME, TIMES, Catalog, quick
from imgsim_assets_tests.support.faulty_server import (
    Behave,
    Connection,
    Misbehaving,
    Shop,
    redirect,
    response,
)
from imgsim_assets_tests.support.images import encoded, jpeg, make_image
from imgsim_assets_tests.support.web import Web

IMAGE = jpeg(1)
BUSY = response(status=b"503 Busy")

# ---- what is fetched, and when ------------------------------------------------------


def test_ledger_committed_and_compacted_in_many_parts_equals_that_of_one_part(
    things: Catalog, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.pages.update({f"/{number}": response(jpeg(number)) for number in range(0, 40, 2)})
    urls = {f"item {number * 7 % 40}": shop.url(f"/{number}") for number in range(40)}
    whole = things.beside("whole")
    whole.declare(urls)
    (expected,) = whole.run()
    with monkeypatch.context() as small:
        small.setattr(shard_ledger, "_MIN_RANGE_ROWS", 3)
        small.setattr(writer, "_MAX_LOOSE_ROWS", 2)
        small.setattr(writer, "_MAX_PENDING_ROWS", 4)
        things.declare(urls)
        (report,) = things.run(quick(max_per_host=1))
        assert not things.run()[0].changed
    assert len(things.table.versions()) > 2
    assert len(things.commit().files) == 1
    rows = things.table.read(things.commit())
    assert rows["id"].is_sorted()
    assert rows.drop(TIMES).equals(whole.frame().drop(TIMES))
    assert report.data_version == expected.data_version
    assert report.statuses == expected.statuses == {"http_404": 20, "ok": 20}


def test_first_run_fetches_everything_and_second_run_nothing(things: Catalog, web: Web) -> None:
    web.pages.update({f"/{number}.jpg": jpeg(number) for number in range(9)})
    things.declare({f"item {number}": web.url(f"/{number}.jpg") for number in range(9)}, shards=3)
    first = things.run()
    assert web.gets == {f"/{number}.jpg": 1 for number in range(9)}
    assert [report.changed for report in first] == [True] * 3
    for number in range(9):
        row = things.rows()[f"item {number}"]
        assert things.store.blobs.get(row["sha256"]) == jpeg(number)
        assert (row["status"], row["bytes"]) == ("ok", len(jpeg(number)))
        assert (row["width"], row["height"], row["format"]) == (160, 120, "JPEG")
    before = everything_in(things)
    second = things.run()
    assert web.total_gets == 9
    assert everything_in(things) == before
    assert [(report.changed, report.requested) for report in second] == [(False, 0)] * 3
    assert [r.data_version for r in second] == [r.data_version for r in first]


def test_report_counts_items_requests_and_bytes(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    things.declare({"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg"), "c": "missing.jpg"})
    [report] = things.run()
    assert (report.items, report.requested, report.removed) == (3, 3, 0)
    assert (report.bytes, report.version) == (len(IMAGE), 1)
    assert report.statuses == {"http_404": 1, "missing_file": 1, "ok": 1}


def test_only_items_with_a_changed_url_are_fetched_again(things: Catalog, shop: Shop) -> None:
    shop.pages.update({f"/{name}.jpg": response(jpeg(ord(name))) for name in "abc"})
    things.declare({"1": shop.url("/a.jpg"), "2": shop.url("/b.jpg")}, shards=2)
    before = things.run()
    things.declare({"1": shop.url("/a.jpg"), "2": shop.url("/c.jpg")}, shards=2)
    after = things.run()
    assert shop.gets == {"/a.jpg": 1, "/b.jpg": 1, "/c.jpg": 1}
    assert things.store.blobs.get(things.rows()["2"]["sha256"]) == jpeg(ord("c"))
    assert Counter(report.changed for report in after) == {True: 1, False: 1}
    assert [r.data_version for r in before] != [r.data_version for r in after]


def test_ledger_without_newer_columns_is_continued(things: Catalog, web: Web) -> None:
    web.pages.update({"/1.jpg": jpeg(1), "/2.jpg": jpeg(2)})
    things.declare({"a": web.url("/1.jpg")})
    things.run()
    older = things.table.write_rows(things.frame().drop("checked_at", "revalidation_error"))
    things.table.commit(
        lambda base: PendingCommit(
            replace_shard(base, Shard(0, 1), [older]),
            inputs=things.commit().inputs,
            properties=things.commit().properties,
        )
    )
    things.declare({"a": web.url("/1.jpg"), "b": web.url("/2.jpg")})

    things.run()

    assert web.gets == {"/1.jpg": 1, "/2.jpg": 1}
    assert things.statuses() == {"a": "ok", "b": "ok"}


def test_only_new_items_are_fetched(things: Catalog, shop: Shop) -> None:
    shop.pages.update({f"/{name}.jpg": response(IMAGE) for name in "ab"})
    things.declare({"a": shop.url("/a.jpg")})
    things.run()
    things.declare({"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg")})
    things.run()
    assert shop.gets == {"/a.jpg": 1, "/b.jpg": 1}
    assert things.statuses() == {"a": "ok", "b": "ok"}


def test_removed_item_leaves_the_ledger(things: Catalog, shop: Shop) -> None:
    shop.pages.update({f"/{name}.jpg": response(IMAGE) for name in "ab"})
    things.declare({"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg")})
    things.run()
    things.declare({"a": shop.url("/a.jpg")})
    [report] = things.run()
    assert (report.removed, report.requested, report.items) == (1, 0, 1)
    assert things.statuses() == {"a": "ok"}
    assert len(shop.requests) == 2


def test_item_that_returns_is_fetched_again(things: Catalog, shop: Shop) -> None:
    shop.pages.update({f"/{name}.jpg": response(IMAGE) for name in "ab"})
    both = {"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg")}
    for urls in (both, {"a": shop.url("/a.jpg")}, both):
        things.declare(urls)
        things.run()
    assert shop.gets == {"/a.jpg": 1, "/b.jpg": 2}
    assert things.statuses() == {"a": "ok", "b": "ok"}


def test_retryable_failure_is_retried_only_when_due(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = BUSY
    things.declare({"a": shop.url("/a.jpg")})
    things.run()
    shop.pages["/a.jpg"] = response(IMAGE)
    things.run()
    assert things.statuses() == {"a": "http_503"}
    things.move_retries(-retry_wait(1) + timedelta(seconds=60))
    things.run()
    assert shop.gets == {"/a.jpg": 1}
    things.move_retries(-timedelta(seconds=61))
    things.run()
    assert shop.gets == {"/a.jpg": 2}
    row = things.rows()["a"]
    assert (row["status"], row["attempts"], row["next_retry_at"]) == ("ok", 0, None)


def test_lasting_failure_is_retried_at_growing_intervals(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = BUSY
    things.declare({"a": shop.url("/a.jpg")})
    for failures in (1, 2, 3):
        things.run()
        row = things.rows()["a"]
        assert row["attempts"] == failures
        assert row["next_retry_at"] - row["fetched_at"] == retry_wait(failures)
        things.move_retries(-timedelta(days=1))
    assert shop.gets == {"/a.jpg": 3}


def test_permanent_failure_is_not_retried(things: Catalog, shop: Shop) -> None:
    things.declare({"a": shop.url("/missing.jpg")})
    for _ in range(3):
        things.run(quick(retries=2))
        things.move_retries(-timedelta(days=365))
    assert shop.gets == {"/missing.jpg": 1}
    assert things.statuses() == {"a": "http_404"}


def test_missing_image_is_fetched_again(things: Catalog, shop: Shop) -> None:
    shop.pages.update({"/a.jpg": response(IMAGE), "/b.jpg": response(jpeg(2))})
    things.declare({"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg")})
    things.run()
    sha256 = lose(things, "a")
    [report] = things.run()
    assert (report.requested, report.statuses) == (1, {"ok": 2})
    assert shop.gets == {"/a.jpg": 2, "/b.jpg": 1}
    assert things.store.blobs.get(sha256) == IMAGE
    things.run()
    assert len(shop.requests) == 3


def test_missing_local_image_is_read_again(things: Catalog) -> None:
    (things.folder / "a.jpg").write_bytes(IMAGE)
    things.declare({"a": "a.jpg"})
    things.run()
    sha256 = lose(things, "a")
    [report] = things.run()
    assert report.requested == 1
    assert things.store.blobs.get(sha256) == IMAGE


def test_missing_image_that_is_gone_from_the_web_has_the_new_status(
    things: Catalog, shop: Shop
) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    things.declare({"a": shop.url("/a.jpg")})
    [before] = things.run()
    lose(things, "a")
    del shop.pages["/a.jpg"]
    [after] = things.run()
    row = things.rows()["a"]
    assert (row["status"], row["sha256"]) == ("http_404", None)
    assert after.data_version != before.data_version


def test_image_behind_two_urls_is_stored_once(things: Catalog, shop: Shop) -> None:
    shop.pages.update({f"/{name}.jpg": response(IMAGE) for name in "ab"})
    things.declare({"a": shop.url("/a.jpg"), "b": shop.url("/b.jpg")})
    things.run()
    rows = things.rows()
    assert rows["a"]["sha256"] == rows["b"]["sha256"]
    assert read_blobs(things.store) == {rows["a"]["sha256"]: IMAGE}
    [pack] = list_packs(things.store.files)
    assert pack.size < 2 * len(IMAGE)


def test_changed_number_of_shards_fetches_nothing_again(things: Catalog, shop: Shop) -> None:
    urls = {f"item {number}": shop.url(f"/{number}.jpg") for number in range(12)}
    shop.pages.update({f"/{number}.jpg": response(jpeg(number)) for number in range(10)})
    things.declare(urls, shards=1)
    things.run()
    before = things.frame()
    for shards in (4, 3, 1):
        things.declare(urls, shards=shards)
        reports = things.run()
        assert sum(report.items for report in reports) == 12
        assert things.frame().equals(before)
        assert len(things.commit().files) == shards
        assert not any(report.changed for report in things.run())
    assert len(shop.requests) == 12


def test_items_change_while_only_some_shards_were_rewritten(things: Catalog, shop: Shop) -> None:
    urls = {f"item {number}": shop.url(f"/{number}.jpg") for number in range(12)}
    shop.pages.update({f"/{number}.jpg": response(jpeg(number)) for number in range(13)})
    things.declare(urls, shards=2)
    things.run()
    things.declare(urls, shards=3)
    things.run(only=[1])
    del urls["item 0"]
    urls["item 1"] = shop.url("/12.jpg")
    things.declare(urls, shards=3)
    things.run(only=[0])
    things.run(only=[2])
    things.run(only=[1])
    assert things.statuses() == dict.fromkeys(urls, "ok")
    assert things.rows()["item 1"]["url"] == shop.url("/12.jpg")
    assert len(shop.requests) == 13


def test_returning_to_the_former_number_of_shards_loses_nothing(
    things: Catalog, shop: Shop
) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    names = [f"item {number}" for number in range(60)]
    first = [name for name in names if shard_index(name, 2) == 0]
    moved = next(name for name in first if shard_index(name, 3) == 0)
    last = next(name for name in names if shard_index(name, 2) == 1)
    urls = {name: shop.url("/a.jpg") for name in names if name not in (moved, last)}
    things.declare(urls, shards=2)
    things.run()
    urls[moved] = shop.url("/a.jpg")
    things.declare(urls, shards=3)
    things.run(only=[0])
    urls[last] = shop.url("/a.jpg")
    things.declare(urls, shards=2)
    things.run()
    assert things.statuses() == dict.fromkeys(urls, "ok")


def test_catalog_that_was_never_ingested_is_an_error(things: Catalog) -> None:
    with pytest.raises(StoreError, match=f"{NAME}/items has no version yet"):
        things.run()


def test_empty_catalog_has_an_empty_ledger(things: Catalog) -> None:
    things.declare({})
    [first] = things.run()
    [second] = things.run()
    assert (first.items, first.changed, second.changed) == (0, True, False)
    assert things.statuses() == {}


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
    things: Catalog, shop: Shop, before: dict[str, Any], after: dict[str, Any], status: str
) -> None:
    shop.pages.update({"/a.jpg": redirect("/b.jpg"), "/b.jpg": response(IMAGE)})
    things.declare({"a": shop.url("/a.jpg")})
    things.run(quick(**before))
    assert things.statuses() == {"a": status}
    assert [report.changed for report in things.run(quick(**before))] == [False]
    things.run(quick(**after))
    assert things.statuses() == {"a": "ok"}


def test_changed_settings_retry_refusals_only(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    things.declare({"a": shop.url("/a.jpg"), "b": shop.url("/missing.jpg")})
    things.run()
    assert [report.changed for report in things.run(quick(max_megabytes=1))] == [False]
    assert len(shop.requests) == 2


def test_repeated_refusal_is_not_retried_with_the_same_settings(
    things: Catalog, shop: Shop
) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    things.declare({"a": shop.url("/a.jpg")})
    for megabytes in (0.001, 0.002, 0.002):
        things.run(quick(max_megabytes=megabytes))
    assert shop.gets == {"/a.jpg": 2}
    assert things.rows()["a"]["attempts"] == 2


def test_settings_and_number_of_shards_may_change_together(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    urls = {f"item {number}": shop.url("/a.jpg") for number in range(6)}
    things.declare(urls, shards=2)
    things.run(quick(max_megabytes=0.001))
    things.declare(urls, shards=3)
    things.run()
    assert things.statuses() == dict.fromkeys(urls, "ok")


def test_changed_number_of_shards_keeps_refusals_without_a_request(
    things: Catalog, shop: Shop
) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    urls = {f"item {number}": shop.url("/a.jpg") for number in range(6)}
    for shards in (2, 3):
        things.declare(urls, shards=shards)
        things.run(quick(max_megabytes=0.001))
    assert things.statuses() == dict.fromkeys(urls, "too_large")
    assert len(shop.requests) == 6


# ---- what becomes of an item --------------------------------------------------------


def test_every_outcome_is_a_status_in_the_ledger(things: Catalog, shop: Shop) -> None:
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
            "/undeclared": lambda connection: connection.send_forever(OPEN_END),
            "/bomb": response(bomb, b"Content-Encoding: gzip"),
            "/html": response(b"<!DOCTYPE html><title>Sorry</title>", b"Content-Type: image/jpeg"),
            "/svg": response(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
            "/pixels": response(encoded(make_image(3, (2000, 1000)), "PNG")),
            "/loop": redirect("/loop"),
            "/inside": redirect("http://10.0.0.1/"),
            "/file": redirect("file:///etc/passwd"),
            "/headers": response(IMAGE, b"X: " + b"a" * 100_000),
            "/garbage": b"\x00\xff" * 100 + b"\r\n\r\n",
            "/silent": lambda connection: connection.send_forever(b"", 0.05),
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
        "/bomb": "unexpected_encoding",
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
        "http://user:password@shop.invalid/a.jpg": "bad_url",
        "http://a..b/a.jpg": "bad_url",
        "missing.jpg": "missing_file",
        "../outside.jpg": "blocked_path",
        "/etc/passwd": "blocked_path",
    }
    things.declare({path: shop.url(path) for path in expected} | {url: url for url in elsewhere})
    (report,) = things.run(quick(max_megabytes=0.5, max_pixels=1_000_000, concurrency=4))
    assert things.statuses() == expected | elsewhere
    assert (report.requested, report.fetched) == (len(expected) + len(elsewhere), 3)
    for row in things.rows().values():
        good = row["status"] == "ok"
        assert (row["sha256"] is not None, row["detail"] is None) == (good, good)
        assert (row["next_retry_at"] is not None) == row["retryable"]
        assert row["attempts"] == (0 if good else 1)


def test_retryable_failure_is_retried_within_the_run(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = in_turn(BUSY, response(IMAGE))
    things.declare({"a": shop.url("/a.jpg")})
    [report] = things.run(quick(retries=2))
    assert shop.gets == {"/a.jpg": 2}
    assert (report.requested, report.statuses) == (1, {"ok": 1})
    assert things.rows()["a"]["attempts"] == 0


def test_lasting_failure_uses_all_retries_of_a_run(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = BUSY
    things.declare({"a": shop.url("/a.jpg")})
    things.run(quick(retries=2))
    assert shop.gets == {"/a.jpg": 3}
    assert things.rows()["a"]["attempts"] == 1


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(response(b"<html>"), id="not_image"),
        pytest.param(response(status=b"403 No"), id="http_403"),
        pytest.param(response(length=10**12), id="too_large"),
    ],
)
def test_permanent_failure_takes_one_request(things: Catalog, shop: Shop, page: bytes) -> None:
    shop.pages["/a.jpg"] = page
    things.declare({"a": shop.url("/a.jpg")})
    things.run(quick(retries=2))
    assert shop.gets == {"/a.jpg": 1}


def test_retry_after_is_respected_within_the_run(things: Catalog, shop: Shop) -> None:
    asked: list[float] = []

    def page(connection: Connection) -> None:
        asked.append(time.monotonic())
        slow_down = response(b"", b"Retry-After: 1", status=b"429 Slow down")
        connection.send(slow_down if len(asked) == 1 else response(IMAGE))

    shop.pages["/a.jpg"] = page
    things.declare({"a": shop.url("/a.jpg")})
    things.run(quick(retries=1))
    assert things.statuses() == {"a": "ok"}
    assert asked[1] - asked[0] >= 1.0


def test_long_retry_after_is_respected_by_the_next_run(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(b"", b"Retry-After: 3600", status=b"429 Slow down")
    things.declare({"a": shop.url("/a.jpg")})
    started = time.monotonic()
    things.run(quick(retries=3))
    assert shop.gets == {"/a.jpg": 1}
    assert time.monotonic() - started < 5
    row = things.rows()["a"]
    assert row["next_retry_at"] - row["fetched_at"] == timedelta(hours=1)
    things.move_retries(-timedelta(minutes=59))
    things.run()
    assert shop.gets == {"/a.jpg": 1}
    things.move_retries(-timedelta(minutes=1))
    things.run()
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
def test_malformed_url_fails_only_its_item(things: Catalog, shop: Shop, url: str) -> None:
    shop.pages["/good.jpg"] = response(IMAGE)
    things.declare({"bad": url, "good": shop.url("/good.jpg")})
    things.run()
    statuses = things.statuses()
    assert statuses["good"] == "ok"
    assert statuses["bad"] != "ok"


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
def test_malformed_header_fails_only_its_item(things: Catalog, shop: Shop, page: bytes) -> None:
    shop.pages.update({"/strange.jpg": page, "/good.jpg": response(IMAGE)})
    things.declare({"strange": shop.url("/strange.jpg"), "good": shop.url("/good.jpg")})
    things.run()
    assert things.statuses()["good"] == "ok"


def test_unexpected_exception_fails_only_its_item(
    things: Catalog, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = HttpClient.fetch

    async def fetch(fetcher: HttpClient, url: str, held: Validators | None) -> Fetched:
        if url.endswith("/bad.jpg"):
            raise RuntimeError("dictionary changed size")
        return await real(fetcher, url, held)

    monkeypatch.setattr(HttpClient, "fetch", fetch)
    said: list[str] = []
    shop.pages["/good.jpg"] = response(IMAGE)
    things.declare({"bad": shop.url("/bad.jpg"), "good": shop.url("/good.jpg")})
    things.run(log=said.append)
    assert things.statuses() == {"bad": "internal_error", "good": "ok"}
    row = things.rows()["bad"]
    assert (row["detail"], row["retryable"]) == ("RuntimeError: dictionary changed size", True)
    assert "bad: RuntimeError: dictionary changed size" in said


# ---- local images -------------------------------------------------------------------


def test_local_paths_are_read_in_every_spelling(things: Catalog) -> None:
    (things.folder / "deep").mkdir()
    path = things.folder / "deep" / "a b.jpg"
    path.write_bytes(IMAGE)
    things.declare(
        {
            "relative": "deep/a b.jpg",
            "absolute": str(path),
            "file": f"file://{str(path).replace(' ', '%20')}",
        }
    )
    [report] = things.run()
    assert report.statuses == {"ok": 3}


def test_local_image_is_read_again_only_after_a_change(things: Catalog) -> None:
    for name in "ab":
        (things.folder / f"{name}.jpg").write_bytes(jpeg(ord(name)))
    things.declare({"a": "a.jpg", "b": "b.jpg"})
    things.run()
    assert [report.requested for report in things.run()] == [0]
    (things.folder / "b.jpg").write_bytes(IMAGE)
    [report] = things.run()
    assert report.requested == 1
    assert things.store.blobs.get(things.rows()["b"]["sha256"]) == IMAGE


def test_local_image_that_appears_or_disappears_is_noticed(things: Catalog) -> None:
    things.declare({"a": "a.jpg"})
    things.run()
    assert things.statuses() == {"a": "missing_file"}
    assert [report.changed for report in things.run()] == [False]
    (things.folder / "a.jpg").write_bytes(IMAGE)
    things.run()
    assert things.statuses() == {"a": "ok"}
    (things.folder / "a.jpg").unlink()
    things.run()
    assert things.statuses() == {"a": "missing_file"}


def test_local_file_that_is_no_image_is_read_once(things: Catalog) -> None:
    (things.folder / "a.jpg").write_text("not yet")
    things.declare({"a": "a.jpg"})
    assert [report.requested for report in [*things.run(), *things.run()]] == [1, 0]
    (things.folder / "a.jpg").write_bytes(IMAGE)
    things.run()
    assert things.statuses() == {"a": "ok"}


def test_unreadable_local_file_is_retried_by_every_run(
    things: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError("Permission denied")

    (things.folder / "a.jpg").write_bytes(IMAGE)
    things.declare({"a": "a.jpg"})
    with monkeypatch.context() as forbidden:
        forbidden.setattr(ImageFolder, "_read_local", refuse)
        for attempts in (1, 2):
            things.run()
            row = things.rows()["a"]
            assert (row["status"], row["attempts"]) == ("unreadable_file", attempts)
    things.run()
    assert things.statuses() == {"a": "ok"}


@pytest.mark.parametrize("unfinished", [IMAGE[:20], b"", IMAGE + bytes(1_000_000)])
def test_local_image_read_during_a_write_is_read_again(
    things: Catalog, monkeypatch: pytest.MonkeyPatch, unfinished: bytes
) -> None:
    path = things.folder / "a.jpg"
    path.write_bytes(unfinished)
    things.declare({"a": "a.jpg"})
    read = ImageFolder._read_local

    def read_too_early(folder: ImageFolder, url: str) -> bytes:
        data = read(folder, url)
        path.write_bytes(IMAGE)
        return data

    with monkeypatch.context() as busy:
        busy.setattr(ImageFolder, "_read_local", read_too_early)
        things.run(quick(max_megabytes=0.5))
    assert things.statuses()["a"] != "ok"
    things.run(quick(max_megabytes=0.5))
    assert things.statuses() == {"a": "ok"}


def test_local_image_that_appears_during_a_run_is_read_by_the_next_run(
    things: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    things.declare({"a": "a.jpg"})

    def read_too_early(*_: object) -> bytes:
        (things.folder / "a.jpg").write_bytes(IMAGE)
        raise FileNotFoundError

    with monkeypatch.context() as busy:
        busy.setattr(ImageFolder, "_read_local", read_too_early)
        things.run()
    assert things.statuses() == {"a": "missing_file"}
    things.run()
    assert things.statuses() == {"a": "ok"}


@pytest.mark.parametrize("url", ["deep", "pipe.jpg"])
def test_path_that_is_no_file_is_checked_once(things: Catalog, url: str) -> None:
    (things.folder / "deep").mkdir()
    os.mkfifo(things.folder / "pipe.jpg")
    things.declare({"a": url})
    assert [report.changed for report in [*things.run(), *things.run()]] == [True, False]
    assert things.statuses() == {"a": "missing_file"}


def test_changed_root_retries_blocked_paths(things: Catalog) -> None:
    beside = things.folder.parent / "beside"
    beside.mkdir()
    (beside / "a.jpg").write_bytes(IMAGE)
    things.declare({"a": str(beside / "a.jpg")})
    things.run()
    assert things.statuses() == {"a": "blocked_path"}
    things.declare({"a": str(beside / "a.jpg")}, root=str(things.folder.parent))
    things.run()
    assert things.statuses() == {"a": "ok"}


def test_remote_folder_is_read(things: Catalog, tmp_path: Path) -> None:
    memory: Any = fsspec.filesystem("memory")
    memory.pipe_file(f"/{tmp_path.name}/a.jpg", IMAGE)
    things.declare({"a": "a.jpg", "b": "b.jpg"}, root=f"memory://{tmp_path.name}")
    things.run()
    assert things.statuses() == {"a": "ok", "b": "missing_file"}
    assert [report.changed for report in things.run()] == [False]


def test_root_on_a_web_server_is_fetched_over_http(things: Catalog, shop: Shop) -> None:
    shop.pages["/shop/deep/a%20b.jpg"] = response(IMAGE, b'ETag: "v1"')
    shop.pages["/c.jpg"] = response(IMAGE)
    things.declare(
        {"a": "deep/a b.jpg", "b": "missing.jpg", "c": shop.url("/c.jpg")},
        root=shop.url("/shop"),
    )
    things.run()
    assert things.statuses() == {"a": "ok", "b": "http_404", "c": "ok"}
    row = things.rows()["a"]
    assert (row["url"], row["etag"]) == (shop.url("/shop/deep/a%20b.jpg"), '"v1"')
    assert [report.changed for report in things.run()] == [False]
    assert len(shop.requests) == 3


def test_changed_root_on_a_web_server_is_fetched_from_the_new_url(
    things: Catalog, shop: Shop
) -> None:
    shop.pages["/new/a.jpg"] = response(IMAGE)
    things.declare({"a": "a.jpg"}, root=shop.url("/old"))
    things.run()
    assert things.statuses() == {"a": "http_404"}
    things.declare({"a": "a.jpg"}, root=shop.url("/new/"))
    things.run()
    assert things.statuses() == {"a": "ok"}
    assert shop.requests == ["/old/a.jpg", "/new/a.jpg"]


def test_error_of_a_web_root_fails_only_its_item(things: Catalog, shop: Shop) -> None:
    def page(connection: Connection) -> None:
        asks = connection.request.startswith(b"HEAD")
        connection.send(response(length=100) if asks else response(status=b"500 Oops"))

    shop.pages["/bad.jpg"] = page
    shop.pages["/good.jpg"] = response(IMAGE)
    things.declare({"bad": "bad.jpg", "good": "good.jpg"}, root=shop.url(""))
    things.run()
    assert things.statuses() == {"bad": "http_500", "good": "ok"}


def test_error_of_a_filesystem_library_fails_only_its_item(
    things: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory: Any = fsspec.filesystem("memory")
    for name in ("bad", "good"):
        memory.pipe_file(f"/{things.folder.parent.name}/{name}.jpg", IMAGE)
    real = type(memory).open

    def fail(filesystem: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("/bad.jpg"):
            raise RuntimeError("the session has expired")
        return real(filesystem, path, *arguments, **options)

    things.declare(
        {"bad": "bad.jpg", "good": "good.jpg"}, root=f"memory://{things.folder.parent.name}"
    )
    with monkeypatch.context() as expired:
        expired.setattr(type(memory), "open", fail)
        things.run()
    assert things.statuses() == {"bad": "unreadable_file", "good": "ok"}
    assert things.rows()["bad"]["detail"] == "RuntimeError: the session has expired"
    things.run()
    assert things.statuses() == {"bad": "ok", "good": "ok"}


def test_web_root_does_not_redirect_to_internal_addresses(things: Catalog, shop: Shop) -> None:
    with Misbehaving(response(IMAGE)) as internal:
        shop.pages["/a.jpg"] = redirect(internal.url())
        things.declare({"a": "a.jpg"}, root=shop.url(""))
        things.run(quick(allowed_hosts=(shop.address,)))
    assert internal.connections == 0
    assert things.statuses() == {"a": "blocked_address"}


def test_slow_web_root_times_out(things: Catalog, shop: Shop) -> None:
    def page(connection: Connection) -> None:
        time.sleep(0.8)
        connection.send(response(IMAGE))

    shop.pages["/a.jpg"] = page
    things.declare({"a": "a.jpg"}, root=shop.url(""))
    things.run(quick(timeout_s=0.2, read_timeout_s=0.2, connect_timeout_s=0.2))
    assert things.statuses() == {"a": "timeout"}


# ---- manners ------------------------------------------------------------------------


def test_slow_host_delays_only_its_own_items(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    done_in_time: list[bool] = []

    def slow(connection: Connection) -> None:
        done_in_time.append(connection.wait(lambda: shop.gets["/a.jpg"] == 30))
        connection.send(response(IMAGE))

    with Misbehaving(slow) as slow_shop:
        urls = {f"slow {number}": slow_shop.url() for number in range(4)}
        urls |= {f"quick {number}": shop.url("/a.jpg") for number in range(30)}
        things.declare(urls)
        things.run(quick(concurrency=4, max_per_host=2, timeout_s=30, read_timeout_s=30))
    assert done_in_time == [True] * 4
    assert things.statuses() == dict.fromkeys(urls, "ok")


@pytest.mark.parametrize("limit", [1, 3])
def test_max_per_host_limits_concurrent_requests(things: Catalog, limit: int) -> None:
    with Misbehaving(slowly(response(IMAGE))) as server:
        things.declare({str(number): server.url(f"/{number}") for number in range(12)})
        things.run(quick(concurrency=16, max_per_host=limit))
    assert server.most_at_once == limit
    assert len(server.requests) == 12


def test_max_per_host_includes_retries(things: Catalog) -> None:
    with Misbehaving(slowly(BUSY)) as server:
        things.declare({str(number): server.url(f"/{number}") for number in range(4)})
        things.run(quick(concurrency=16, max_per_host=2, retries=1))
    assert server.most_at_once <= 2
    assert len(server.requests) == 8


def test_concurrency_limits_requests_to_all_hosts(things: Catalog) -> None:
    gauge = Gauge()
    with ExitStack() as stack:
        servers = [stack.enter_context(Misbehaving(gauge.answer)) for _ in range(4)]
        urls = [server.url(f"/{number}") for server in servers for number in range(4)]
        things.declare({url: url for url in urls})
        things.run(quick(concurrency=5, max_per_host=4))
    assert gauge.most == 5


def test_max_per_host_includes_redirects(things: Catalog) -> None:
    with ExitStack() as stack:
        images = stack.enter_context(Misbehaving(slowly(response(IMAGE))))
        shops = [stack.enter_context(Misbehaving(redirect(images.url()))) for _ in range(4)]
        things.declare({server.address: server.url() for server in shops})
        things.run(quick(concurrency=16, max_per_host=1))
    assert images.most_at_once == 1


def test_concurrency_does_not_change_the_ledger(things: Catalog, shop: Shop) -> None:
    for number in range(24):
        kind = number % 6
        shop.pages[f"/{number}"] = (
            response(jpeg(number), b'ETag: "%d"' % number)
            if kind < 3
            else [BUSY, response(b"<html>"), redirect("/0")][kind - 3]
        )
    urls = {f"item {number}": shop.url(f"/{number}") for number in range(26)}
    other = things.beside("other")
    for catalog, settings, shards in (
        (things, quick(concurrency=1, max_per_host=1), 2),
        (other, quick(concurrency=32, max_per_host=16), 5),
    ):
        catalog.declare(urls, shards=shards)
        catalog.run(settings)
    assert things.frame().drop(TIMES).equals(other.frame().drop(TIMES))
    assert len(things.frame()["status"].unique()) == 4


# ---- commits ------------------------------------------------------------------------


def test_long_run_commits_regularly_and_ends_with_one_file(
    things: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 0.05)
    seen: list[int] = []

    def page(connection: Connection) -> None:
        if len(server.requests) == 20:
            connection.wait(lambda: things.committed() >= 10)
            seen.append(things.committed())
        connection.send(response(jpeg(len(server.requests))))

    with Misbehaving(page) as server:
        things.declare({str(number): server.url(f"/{number}") for number in range(20)})
        things.run(quick(max_per_host=1, timeout_s=30, read_timeout_s=30))
    assert seen
    assert 10 <= seen[0] < 20
    assert len(things.table.versions()) > 1
    assert [(file.rows, file.is_snapshot) for file in things.commit().files] == [(20, True)]


def test_on_commit_makes_commits_more_frequent(
    things: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 3600)
    monkeypatch.setattr(shard_run, "_FOLLOWED_COMMIT_EVERY_SECONDS", 0.05)
    told: list[Shard] = []

    def page(connection: Connection) -> None:
        if len(server.requests) == 10:
            connection.wait(lambda: bool(told))
        connection.send(response(jpeg(len(server.requests))))

    with Misbehaving(page) as server:
        things.declare({str(number): server.url(f"/{number}") for number in range(10)})
        settings = quick(max_per_host=1, timeout_s=30, read_timeout_s=30)
        with stage.ImagesStage(things.store, NAME, settings, on_commit=told.append) as images:
            images.run(Shard(0, 1))
    assert set(told) == {Shard(0, 1)}
    assert set(things.statuses().values()) == {"ok"}


def test_very_long_run_keeps_few_delta_files(
    things: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_run, "COMMIT_EVERY_SECONDS", 0.001)
    monkeypatch.setattr(writer, "_MAX_DELTA_FILES", 3)

    def page(connection: Connection) -> None:
        asked = len(server.requests)
        connection.wait(lambda: things.committed() >= asked - 1)
        connection.send(response(jpeg(asked)))

    with Misbehaving(page) as server:
        urls = {f"item {number:02}": server.url(f"/{number}") for number in range(12)}
        things.declare(urls)
        things.run(quick(max_per_host=1, timeout_s=30, read_timeout_s=30))
    commits = [things.table.at(version) for version in things.table.versions()]
    assert len(commits) >= 12
    assert max(len(commit.files) for commit in commits) == 4
    heights = [things.table.read(commit).height for commit in commits]
    assert heights == sorted(heights)
    assert things.statuses() == dict.fromkeys(urls, "ok")
    assert [(file.rows, file.is_snapshot) for file in things.commit().files] == [(12, True)]


def test_ledger_records_the_version_of_the_catalog(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    things.declare({"a": shop.url("/a.jpg")})
    things.run()
    assert things.commit().inputs == {"items": 1}
    things.declare({"a": shop.url("/a.jpg"), "b": shop.url("/a.jpg")})
    things.run()
    assert things.commit().inputs == {"items": 2}


def test_older_version_of_the_ledger_stays_readable(things: Catalog, shop: Shop) -> None:
    shop.pages["/a.jpg"] = response(IMAGE)
    things.declare({"a": shop.url("/a.jpg")})
    things.run()
    pinned = things.commit()
    things.declare({"b": shop.url("/a.jpg")})
    things.run()
    assert things.table.read(pinned)["id"].to_list() == ["a"]
    assert things.statuses() == {"b": "ok"}


# ---- helpers ------------------------------------------------------------------------

OPEN_END = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(65536)


class Gauge:
    """Answers slowly, and knows how many requests it was answering at most."""

    def __init__(self) -> None:
        self.most = 0
        self._active = 0
        self._lock = threading.Lock()

    def answer(self, connection: Connection) -> None:
        with self._lock:
            self._active += 1
            self.most = max(self.most, self._active)
        time.sleep(0.05)
        with self._lock:
            self._active -= 1
        connection.send(response(IMAGE))


def slowly(page: bytes) -> Behave:
    def behave(connection: Connection) -> None:
        time.sleep(0.05)
        connection.send(page)

    return behave


def in_turn(*pages: bytes) -> Behave:
    left = list(pages)
    return lambda connection: connection.send(left.pop(0))


def everything_in(things: Catalog) -> dict[str, int]:
    """Every file of the store with the time it was written."""
    root = Path(things.store.url)
    return {
        str(path.relative_to(root.parent)): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file()
    }


def lose(things: Catalog, item: str) -> str:
    """Delete an item's image from the store, as a reader that misses it reports."""
    sha256: str = things.rows()[item]["sha256"]
    remove_blob(things.store, sha256)
    things.store.blobs.report_missing(sha256)
    return sha256
