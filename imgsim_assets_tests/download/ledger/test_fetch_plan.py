from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from imgsim_assets.download.ledger.fetch_plan import DueImage, FetchPlan, plan_fetches
from imgsim_assets.download.ledger.table import empty_ledger, ledger_frame
from imgsim_assets.download.status import DEPENDS_ON_SETTINGS
from imgsim_assets_tests.support.downloads import NOW, URL, failure, success


def test_new_item_is_fetched() -> None:
    assert due(URL, None) == [DueImage("a", URL, 0)]


def test_new_and_due_items_keep_the_order_of_the_catalog() -> None:
    ids = ["c", "a", "d", "b", "e"]
    urls = [f"http://shop.example/{item}.jpg" for item in ids]
    ledger = [
        success("http://shop.example/d.jpg") | {"id": "d"},
        success("http://shop.example/old.jpg") | {"id": "a"},
        success("http://shop.example/gone.jpg") | {"id": "gone"},
    ]
    plan = make_plan(ids, urls, ledger_frame(ledger), file_version=None)
    assert [item.id for item in items_of(plan)] == ["c", "a", "b", "e"]
    assert plan.removed_ids == ["gone"]
    assert len(plan.without_images().images) == 0


def test_existing_image_is_not_fetched() -> None:
    assert due(URL, success(URL)) == []


def test_changed_url_is_fetched_and_restarts_the_count_of_attempts() -> None:
    old = failure("timeout", DueImage("a", "http://shop.example/old.jpg", 3))
    assert due(URL, old) == [DueImage("a", URL, 0)]


@pytest.mark.parametrize(("minutes", "is_due"), [(4.9, False), (5.0, True), (600, True)])
def test_retryable_failure_is_due_after_its_wait(minutes: float, is_due: bool) -> None:
    later = NOW + timedelta(minutes=minutes)
    expected = [DueImage("a", URL, 1)] if is_due else []
    assert due(URL, failure("timeout"), now=later) == expected


@pytest.mark.parametrize("status", ["http_404", "not_image", "blocked_address", "bad_url"])
def test_permanent_failure_is_never_due(status: str) -> None:
    assert due(URL, failure(status), now=NOW + timedelta(days=3650)) == []


@pytest.mark.parametrize("status", sorted(DEPENDS_ON_SETTINGS))
def test_failure_that_depends_on_settings_is_due_after_they_change(status: str) -> None:
    assert due(URL, failure(status)) == []
    assert due(URL, failure(status), same_settings=False) == [DueImage("a", URL, 1)]


@pytest.mark.parametrize("status", ["http_404", "not_image", "bad_url", "timeout"])
def test_changed_settings_do_not_retry_other_failures(status: str) -> None:
    assert due(URL, failure(status), same_settings=False) == []
    assert due(URL, success(URL), same_settings=False) == []


def test_image_with_missing_blob_is_fetched_again() -> None:
    row = success(URL, sha256="f" * 64)
    assert due(URL, row, missing_blobs={"f" * 64}) == [DueImage("a", URL, 0)]
    assert due(URL, row, missing_blobs={"0" * 64}) == []


def test_revalidation_is_conditional_only_if_the_blob_exists() -> None:
    old = success(URL, sha256="f" * 64) | {"checked_at": NOW - timedelta(days=2)}
    age = timedelta(days=1)
    [item] = due(URL, old, revalidate_age=age)
    assert item.cached is not None
    assert due(URL, old, revalidate_age=age, absent_blobs={"f" * 64}) == [DueImage("a", URL, 0)]


@pytest.mark.parametrize(("version", "is_due"), [("5-1", False), ("5-2", True), (None, True)])
def test_local_image_is_read_again_after_its_file_changed(
    version: str | None, is_due: bool
) -> None:
    row = success("images/a.jpg", etag="5-1")
    assert bool(due("images/a.jpg", row, file_version=version)) == is_due


@pytest.mark.parametrize(("version", "is_due"), [(None, False), ("5-1", True)])
def test_missing_file_is_read_when_it_appears(version: str | None, is_due: bool) -> None:
    missing = failure("missing_file", DueImage("a", "a.jpg", 0))
    assert bool(due("a.jpg", missing, file_version=version)) == is_due


def test_unreadable_file_is_retried_by_every_run() -> None:
    unreadable = failure("unreadable_file", DueImage("a", "a.jpg", 0))
    assert due("a.jpg", unreadable, file_version="5-1") == [DueImage("a", "a.jpg", 1)]


def test_file_versions_are_ignored_for_a_root_on_the_web() -> None:
    assert due("a.jpg", success("a.jpg", etag="5-1"), has_folder=False) == []
    missing = failure("http_404", DueImage("a", "a.jpg", 0))
    assert due("a.jpg", missing, file_version="5-1", has_folder=False) == []


def test_ids_that_left_the_catalog_are_removed() -> None:
    ledger = ledger_frame([{**success(URL), "id": name} for name in ("c", "a", "b")])
    plan = make_plan(["a"], [URL], ledger)
    assert plan.removed_ids == ["b", "c"]
    assert len(plan.images) == 0


def test_items_of_an_empty_ledger_keep_the_order_of_the_catalog() -> None:
    names = [f"item {number}" for number in (5, 3, 9, 1)]
    plan = make_plan(names, [URL] * 4, empty_ledger())
    assert [item.id for item in items_of(plan)] == names
    assert list(plan.images.urls()) == [URL] * 4


def test_images_are_recognized_by_their_urls_whatever_their_number() -> None:
    a, b, c = (f"http://shop.example/{name}.jpg" for name in "abc")
    ledger = ledger_frame([success(a), success(b) | {"image": 1}])

    same = plan_of({"a": [a, b]}, ledger)
    reordered = plan_of({"a": [b, a]}, ledger)
    added = plan_of({"a": [c, a, b]}, ledger)
    removed = plan_of({"a": [b]}, ledger)
    changed = plan_of({"a": [a, c]}, ledger)

    plans = [same, reordered, added, removed, changed]
    assert [items_of(plan) for plan in plans] == [
        [],
        [],
        [DueImage("a", c, 0)],
        [],
        [DueImage("a", c, 0, image=1)],
    ]
    assert [plan.is_renumbered for plan in plans] == [False, True, True, True, False]
    assert [plan.has_leftovers for plan in plans] == [False, False, False, True, True]
    assert [plan.removed_images for plan in plans] == [0, 0, 0, 1, 0]
    assert all(not plan.removed_ids for plan in plans)


def test_images_of_removed_items_count_as_removed() -> None:
    ledger = ledger_frame(
        [success(URL) | {"id": "b"}, success(URL + "2") | {"id": "b", "image": 1}]
    )
    plan = plan_of({"a": [URL]}, ledger)
    assert (plan.removed_ids, plan.removed_images) == (["b"], 2)


def test_revalidated_image_takes_its_new_number() -> None:
    old = {"checked_at": NOW - timedelta(days=2)}
    urls = [URL, URL + "2"]
    ledger = ledger_frame([success(urls[0]) | old, success(urls[1]) | old | {"image": 1}])
    plan = plan_of({"a": urls[::-1]}, ledger, revalidate_age=timedelta(days=1))
    cached = [(item.image, item.url, item.cached) for item in items_of(plan)]
    assert [(image, url) for image, url, _ in cached] == [(0, urls[1]), (1, urls[0])]
    assert [row and (row["image"], row["url"]) for _, _, row in cached] == [
        (0, urls[1]),
        (1, urls[0]),
    ]


def test_a_row_that_two_runs_left_twice_is_one_image() -> None:
    ledger = ledger_frame([success(URL), success(URL) | {"image": 1}])
    plan = plan_of({"a": [URL]}, ledger)
    assert (items_of(plan), plan.has_leftovers) == ([], True)


def due(
    url: str,
    row: dict[str, Any] | None,
    *,
    now: datetime = NOW,
    file_version: str | None = None,
    has_folder: bool = True,
    absent_blobs: set[str] | None = None,
    **options: Any,
) -> list[DueImage]:
    """The due items of a catalog with the one item "a", whose ledger row is `row`."""
    plan = plan_fetches(
        images({"a": [url]}),
        ledger_frame([row] if row else []),
        now=now,
        file_version=(lambda _: file_version) if has_folder else None,
        missing_blobs=options.pop("missing_blobs", set()),
        blob_exists=lambda names: [name not in (absent_blobs or ()) for name in names],
        **options,
    )
    return items_of(plan)


def make_plan(
    ids: list[str], urls: list[str], ledger: pl.DataFrame, file_version: Any = lambda _: None
) -> FetchPlan:
    items = {item: [url] for item, url in zip(ids, urls, strict=True)}
    return plan_of(items, ledger, file_version=file_version)


def plan_of(
    items: Mapping[str, Sequence[str]],
    ledger: pl.DataFrame,
    *,
    file_version: Any = None,
    revalidate_age: timedelta | None = None,
) -> FetchPlan:
    return plan_fetches(
        images(items),
        ledger,
        now=NOW,
        file_version=file_version,
        missing_blobs=set(),
        blob_exists=lambda names: [True] * len(names),
        revalidate_age=revalidate_age,
    )


def images(urls: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """The images of items with these urls."""
    rows = [(item, n, url) for item, found in urls.items() for n, url in enumerate(found)]
    schema = {"id": pl.String, "image": pl.Int32, "url": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def items_of(plan: FetchPlan) -> list[DueImage]:
    return [plan.images[number] for number in range(len(plan.images))]
