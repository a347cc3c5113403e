from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from imgsim_assets.download.ledger import table as ledger
from imgsim_assets.download.ledger.table import Item
from imgsim_assets.download.status import BY_SETTINGS, FetchError

NOW = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
URL = "http://shop.example/a.jpg"


def test_a_new_item_is_fetched() -> None:
    assert planned(URL, None) == [Item("a", URL, 0)]


def test_new_and_due_items_come_in_the_order_of_the_catalog() -> None:
    ids = ["c", "a", "d", "b", "e"]
    catalog = pl.DataFrame({"id": ids, "url": [f"http://shop.example/{one}.jpg" for one in ids]})
    known = [
        ok("http://shop.example/d.jpg") | {"id": "d"},
        ok("http://shop.example/old.jpg") | {"id": "a"},
        ok("http://shop.example/gone.jpg") | {"id": "gone"},
    ]
    plan = ledger.plan(
        catalog,
        ledger.ledger_frame(known),
        now=NOW,
        stamp=None,
        lost=set(),
        holds=none_is_missing,
    )
    assert [plan.fetch[number].id for number in range(len(plan.fetch))] == ["c", "a", "b", "e"]
    assert plan.removed == ["gone"]
    assert len(plan.done().fetch) == 0


def test_an_image_that_is_there_is_left_alone() -> None:
    assert planned(URL, ok(URL)) == []


def test_a_changed_url_is_fetched_and_starts_counting_anew() -> None:
    old = failed("timeout", Item("a", "http://shop.example/old.jpg", 3))
    assert planned(URL, old) == [Item("a", URL, 0)]


@pytest.mark.parametrize(("minutes", "due"), [(4.9, False), (5.0, True), (600, True)])
def test_a_transient_failure_is_due_after_its_wait(minutes: float, due: bool) -> None:
    failure = failed("timeout")
    later = NOW + timedelta(minutes=minutes)
    assert planned(URL, failure, now=later) == ([Item("a", URL, 1)] if due else [])


@pytest.mark.parametrize("status", ["http_404", "not_image", "blocked_address", "bad_url"])
def test_a_permanent_failure_is_never_due(status: str) -> None:
    assert planned(URL, failed(status), now=NOW + timedelta(days=3650)) == []


@pytest.mark.parametrize("status", sorted(BY_SETTINGS))
def test_a_refusal_by_settings_is_due_once_they_change(status: str) -> None:
    assert planned(URL, failed(status)) == []
    assert planned(URL, failed(status), same_settings=False) == [Item("a", URL, 1)]


@pytest.mark.parametrize("status", ["http_404", "not_image", "bad_url", "timeout"])
def test_other_settings_give_no_other_failure_another_try(status: str) -> None:
    assert planned(URL, failed(status), same_settings=False) == []
    assert planned(URL, ok(URL), same_settings=False) == []


def test_an_image_whose_bytes_are_lost_is_fetched_again() -> None:
    assert planned(URL, ok(URL, sha256="f" * 64), lost={"f" * 64}) == [Item("a", URL, 0)]
    assert planned(URL, ok(URL, sha256="f" * 64), lost={"0" * 64}) == []


def test_an_image_of_an_age_is_asked_for_with_conditions_only_if_its_bytes_are_there() -> None:
    good = ok(URL, sha256="f" * 64) | {"checked_at": NOW - timedelta(days=2)}
    age = timedelta(days=1)
    [held] = planned(URL, good, refresh_age=age)
    assert held.held is not None
    assert planned(URL, good, refresh_age=age, missing={"f" * 64}) == [Item("a", URL, 0)]


@pytest.mark.parametrize(("stamp", "due"), [("5-1", False), ("5-2", True), (None, True)])
def test_a_local_image_is_read_again_when_its_file_changed(stamp: str | None, due: bool) -> None:
    known = ok("images/a.jpg", etag="5-1")
    assert bool(planned("images/a.jpg", known, stamp=stamp)) == due


@pytest.mark.parametrize(("stamp", "due"), [(None, False), ("5-1", True)])
def test_a_missing_file_is_looked_for_until_it_is_there(stamp: str | None, due: bool) -> None:
    missing = failed("missing_file", Item("a", "a.jpg", 0))
    assert bool(planned("a.jpg", missing, stamp=stamp)) == due


def test_a_file_that_could_not_be_read_is_tried_again() -> None:
    failure = failed("unreadable_file", Item("a", "a.jpg", 0))
    assert planned("a.jpg", failure, stamp="5-1") == [Item("a", "a.jpg", 1)]


def test_local_paths_that_are_no_files_are_not_looked_at() -> None:
    assert planned("a.jpg", ok("a.jpg", etag="5-1"), stamps=False) == []
    missing = failed("http_404", Item("a", "a.jpg", 0))
    assert planned("a.jpg", missing, stamp="5-1", stamps=False) == []


def test_ids_that_left_the_catalog_are_removed() -> None:
    known = ledger.ledger_frame([{**ok(URL), "id": name} for name in ("c", "a", "b")])
    plan = ledger.plan(
        pl.DataFrame({"id": ["a"], "url": [URL]}),
        known,
        now=NOW,
        stamp=lambda _: None,
        lost=set(),
        holds=none_is_missing,
    )
    assert plan.removed == ["b", "c"]
    assert len(plan.fetch) == 0


def test_items_are_fetched_in_the_order_of_the_catalog() -> None:
    names = [f"item {number}" for number in (5, 3, 9, 1)]
    plan = ledger.plan(
        pl.DataFrame({"id": names, "url": [URL] * 4}),
        ledger.empty_ledger(),
        now=NOW,
        stamp=lambda _: None,
        lost=set(),
        holds=none_is_missing,
    )
    assert [plan.fetch[number].id for number in range(4)] == names
    assert list(plan.fetch.urls()) == [URL] * 4


def test_a_transient_failure_counts_and_says_when_it_is_due() -> None:
    row = failed("timeout", Item("a", URL, 2))
    assert (row["attempts"], row["retryable"]) == (3, True)
    assert row["next_retry_at"] == NOW + ledger.retry_wait(3)


@pytest.mark.parametrize(
    ("asked", "wait"),
    [
        (None, timedelta(minutes=5)),
        (0.0, timedelta(minutes=5)),
        (299.0, timedelta(minutes=5)),
        (301.0, timedelta(seconds=301)),
        (3600.0, timedelta(hours=1)),
    ],
)
def test_a_later_run_waits_at_least_as_long_as_the_server_asked(
    asked: float | None, wait: timedelta
) -> None:
    row = ledger.failed(Item("a", URL, 0), FetchError("rate_limited", "", asked), NOW)
    assert row["next_retry_at"] == NOW + wait


def test_a_permanent_failure_is_not_scheduled() -> None:
    row = ledger.failed(Item("a", URL, 0), FetchError("http_404", "Not Found", 60.0), NOW)
    assert (row["attempts"], row["retryable"], row["next_retry_at"]) == (1, False, None)


def test_a_long_detail_is_cut() -> None:
    row = ledger.failed(Item("a", URL, 0), FetchError("protocol_error", "x" * 100_000), NOW)
    assert len(row["detail"]) == 500


def test_waits_grow_from_minutes_and_never_skip_a_nightly_run() -> None:
    waits = [ledger.retry_wait(attempts) for attempts in range(1, 2000)]
    assert waits[:3] == [timedelta(minutes=5), timedelta(minutes=20), timedelta(minutes=80)]
    assert waits == sorted(waits)
    assert waits[-1] < timedelta(days=1)


def test_rows_have_the_whole_schema_whatever_they_say() -> None:
    rows = ledger.ledger_frame([ok(URL), failed("dns_error", Item("b", URL, 0))])
    assert dict(rows.schema) == dict(ledger.SCHEMA)
    assert rows["detail"].to_list() == [None, "why it failed"]
    assert ledger.ledger_frame([]).equals(ledger.empty_ledger())


def test_a_moment_reads_back_from_the_ledger_as_it_was_written() -> None:
    now = ledger.utc_now()
    assert ledger.ledger_frame([{"id": "a", "fetched_at": now}])["fetched_at"].to_list() == [now]


def test_the_data_version_is_that_of_the_images() -> None:
    first, second = ok(URL, sha256="1" * 64), {**ok(URL, sha256="2" * 64), "id": "b"}
    rows = ledger.ledger_frame([first, second])
    version = ledger.data_version(rows)
    later = ledger.ledger_frame(
        [{**second, "fetched_at": NOW + timedelta(1)}, {**first, "etag": "x"}]
    )
    missing = failed("http_404", Item("c", URL, 0))
    assert ledger.data_version(later) == version
    assert ledger.data_version(ledger.ledger_frame([first, second, missing])) == version
    assert ledger.data_version(ledger.ledger_frame([first])) != version
    assert (
        ledger.data_version(ledger.ledger_frame([first, {**second, "sha256": "3" * 64}])) != version
    )


def ok(url: str, sha256: str = "a" * 64, etag: str | None = None) -> dict[str, Any]:
    return {
        "id": "a",
        "url": url,
        "status": "ok",
        "retryable": False,
        "attempts": 0,
        "sha256": sha256,
        "etag": etag,
        "fetched_at": NOW,
    }


def failed(status: str, item: Item | None = None) -> dict[str, Any]:
    """The row of an item, by default the one that was never tried before, that failed just now."""
    return ledger.failed(item or Item("a", URL, 0), FetchError(status, "why it failed"), NOW)


def planned(
    url: str,
    known: dict[str, Any] | None,
    *,
    now: datetime = NOW,
    stamp: str | None = None,
    stamps: bool = True,
    lost: set[str] | None = None,
    missing: set[str] | None = None,
    same_settings: bool = True,
    refresh_age: timedelta | None = None,
) -> list[Item]:
    """What a run fetches of a catalog with the one item "a", of which a row is known."""
    plan = ledger.plan(
        pl.DataFrame({"id": ["a"], "url": [url]}),
        ledger.ledger_frame([known] if known else []),
        now=now,
        stamp=(lambda _: stamp) if stamps else None,
        lost=lost or set(),
        holds=lambda names: [name not in (missing or ()) for name in names],
        same_settings=same_settings,
        refresh_age=refresh_age,
    )
    return [plan.fetch[number] for number in range(len(plan.fetch))]


def none_is_missing(names: list[str]) -> list[bool]:
    return [True] * len(names)
