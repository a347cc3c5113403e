"""Hosts that answer with pages in place of images."""

from __future__ import annotations

from datetime import timedelta

import pytest

from imgsim_assets_tests.support.downloads import Catalog, fast_settings
from imgsim_assets_tests.support.faulty_server import PageServer, response
from imgsim_assets_tests.support.images import jpeg

PAGE = response(b"<!doctype html><title>Back soon</title>", b"Content-Type: text/html")
WEEK = timedelta(days=7)


def declare(catalog: Catalog, shop: PageServer, pages: list[bytes], shards: int = 1) -> None:
    shop.pages.update({f"/{number:03}": page for number, page in enumerate(pages)})
    names = [f"{number:03}" for number in range(len(pages))]
    catalog.declare({name: shop.url(f"/{name}") for name in names}, shards=shards)


@pytest.mark.parametrize(("count", "shards"), [(40, 1), (12, 4), (2, 1)])
def test_host_that_answers_with_pages_recovers_in_a_later_run(
    catalog: Catalog, shop: PageServer, count: int, shards: int
) -> None:
    declare(catalog, shop, [PAGE] * count, shards)
    catalog.run()
    assert set(catalog.statuses().values()) == {"not_image"}
    assert {row["retryable"] for row in catalog.rows().values()} == {True}
    assert len(shop.requests) == count

    catalog.run()
    assert len(shop.requests) == count, "requested before the retry was due"

    catalog.shift_retries(-WEEK)
    declare(catalog, shop, [response(jpeg(number)) for number in range(count)], shards)
    catalog.run()
    assert set(catalog.statuses().values()) == {"ok"}


def test_host_with_pages_is_logged_once(catalog: Catalog, shop: PageServer) -> None:
    messages: list[str] = []
    declare(catalog, shop, [PAGE] * 30)
    catalog.run(log=messages.append)
    (message,) = [line for line in messages if "no image" in line]
    assert message.startswith(f"{shop.address}: 5 answers in a row are no image, the last: an HTML")


def test_single_pages_of_a_host_with_images_are_permanent(
    catalog: Catalog, shop: PageServer
) -> None:
    pages = [PAGE if number % 4 == 1 else response(jpeg(number)) for number in range(40)]
    declare(catalog, shop, pages)
    catalog.run(fast_settings(max_per_host=1))
    failed = [row for row in catalog.rows().values() if row["status"] == "not_image"]
    assert len(failed) == 10
    assert {(row["retryable"], row["next_retry_at"]) for row in failed} == {(False, None)}


def test_outage_in_the_middle_of_a_run_is_retried(catalog: Catalog, shop: PageServer) -> None:
    pages = [response(jpeg(number)) if number < 10 else PAGE for number in range(30)]
    declare(catalog, shop, pages)
    catalog.run(fast_settings(max_per_host=1))
    rows = catalog.rows()
    assert [rows[f"{number:03}"]["retryable"] for number in range(30)] == [False] * 10 + [True] * 20


def test_small_host_that_never_sends_an_image_is_given_up(
    catalog: Catalog, shop: PageServer
) -> None:
    declare(catalog, shop, [PAGE])
    for _ in range(8):
        catalog.run()
        catalog.shift_retries(-WEEK)
    assert len(shop.requests) == 5
    assert catalog.rows()["000"]["retryable"] is False


def test_pages_of_several_hosts_count_apart(catalog: Catalog, shop: PageServer) -> None:
    with PageServer() as other:
        urls: dict[str, str] = {}
        for number in range(6):
            shop.pages[f"/{number}"] = PAGE
            other.pages[f"/{number}"] = response(jpeg(number)) if number else PAGE
            urls |= {f"s{number}": shop.url(f"/{number}"), f"o{number}": other.url(f"/{number}")}
        catalog.declare(urls)
        catalog.run()
    rows = catalog.rows()
    assert rows["o0"]["retryable"] is False
    assert {rows[f"s{number}"]["retryable"] for number in range(6)} == {True}
