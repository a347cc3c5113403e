from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from imgsim_assets.download import ledger
from imgsim_assets.download.ledger import Item

NOW = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
URL = "http://shop.example/a.jpg"


def test_a_new_item_is_fetched() -> None:
    assert planned(URL, None) == [Item("a", URL, 0)]


def test_an_image_that_is_there_is_left_alone() -> None:
    assert planned(URL, ok(URL)) == []


def test_a_changed_url_is_fetched_and_starts_counting_anew() -> None:
    old = ledger.failed(Item("a", "http://shop.example/old.jpg", 3), "timeout", "", NOW)
    assert planned(URL, old) == [Item("a", URL, 0)]


@pytest.mark.parametrize(("minutes", "due"), [(4.9, False), (5.0, True), (600, True)])
def test_a_transient_failure_is_due_after_its_wait(minutes: float, due: bool) -> None:
    failure = ledger.failed(Item("a", URL, 0), "timeout", "", NOW)
    later = NOW + timedelta(minutes=minutes)
    assert planned(URL, failure, now=later) == ([Item("a", URL, 1)] if due else [])


@pytest.mark.parametrize("status", ["http_404", "not_image", "blocked_address", "bad_url"])
def test_a_permanent_failure_is_never_due(status: str) -> None:
    failure = ledger.failed(Item("a", URL, 0), status, "", NOW)
    assert planned(URL, failure, now=NOW + timedelta(days=3650)) == []


def test_an_image_whose_bytes_are_lost_is_fetched_again() -> None:
    assert planned(URL, ok(URL, sha256="f" * 64), lost={"f" * 64}) == [Item("a", URL, 0)]
    assert planned(URL, ok(URL, sha256="f" * 64), lost={"0" * 64}) == []


@pytest.mark.parametrize(("stamp", "due"), [("5-1", False), ("5-2", True), (None, True)])
def test_a_local_image_is_read_again_when_its_file_changed(stamp: str | None, due: bool) -> None:
    known = ok("pictures/a.jpg", etag="5-1")
    assert bool(planned("pictures/a.jpg", known, stamp=stamp)) == due


@pytest.mark.parametrize(("stamp", "due"), [(None, False), ("5-1", True)])
def test_a_missing_file_is_looked_for_until_it_is_there(stamp: str | None, due: bool) -> None:
    missing = ledger.failed(Item("a", "a.jpg", 0), "missing_file", "", NOW)
    assert bool(planned("a.jpg", missing, stamp=stamp)) == due


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="a file that could not be read is only tried again once it is rewritten",
)
def test_a_file_that_could_not_be_read_is_tried_again() -> None:
    failure = ledger.failed(Item("a", "a.jpg", 0), "unreadable_file", "Permission denied", NOW)
    failure["etag"] = "5-1"
    assert planned("a.jpg", failure, stamp="5-1", now=NOW + timedelta(days=1))


def test_ids_that_left_the_catalogue_are_removed() -> None:
    known = ledger.as_rows([{**ok(URL), "id": name} for name in ("c", "a", "b")])
    plan = ledger.plan(
        pl.DataFrame({"id": ["a"], "url": [URL]}),
        known,
        now=NOW,
        stamp=lambda _: None,
        lost=set(),
    )
    assert plan.removed == ["b", "c"]
    assert plan.fetch == []


def test_items_are_fetched_in_the_order_of_the_catalogue() -> None:
    names = [f"item {number}" for number in (5, 3, 9, 1)]
    plan = ledger.plan(
        pl.DataFrame({"id": names, "url": [URL] * 4}),
        ledger.empty_ledger(),
        now=NOW,
        stamp=lambda _: None,
        lost=set(),
    )
    assert [item.id for item in plan.fetch] == names


def test_a_transient_failure_counts_and_says_when_it_is_due() -> None:
    row = ledger.failed(Item("a", URL, 2), "timeout", "not done in 30 s", NOW)
    assert (row["attempts"], row["transient"]) == (3, True)
    assert row["next_retry_at"] == NOW + ledger.retry_wait(3)


def test_a_permanent_failure_is_not_scheduled() -> None:
    row = ledger.failed(Item("a", URL, 0), "http_404", "Not Found", NOW)
    assert (row["attempts"], row["transient"], row["next_retry_at"]) == (1, False, None)


def test_a_long_detail_is_cut() -> None:
    row = ledger.failed(Item("a", URL, 0), "bad_response", "x" * 100_000, NOW)
    assert len(row["detail"]) == 500


def test_waits_grow_from_minutes_and_never_skip_a_nightly_run() -> None:
    waits = [ledger.retry_wait(attempts) for attempts in range(1, 2000)]
    assert waits[:3] == [timedelta(minutes=5), timedelta(minutes=20), timedelta(minutes=80)]
    assert waits == sorted(waits)
    assert waits[-1] < timedelta(days=1)


def test_rows_have_the_whole_schema_whatever_they_say() -> None:
    rows = ledger.as_rows([ok(URL), ledger.failed(Item("b", URL, 0), "dns", "no such name", NOW)])
    assert dict(rows.schema) == dict(ledger.SCHEMA)
    assert rows["detail"].to_list() == [None, "no such name"]
    assert ledger.as_rows([]).equals(ledger.empty_ledger())


def test_a_moment_reads_back_from_the_ledger_as_it_was_written() -> None:
    now = ledger.utc_now()
    assert ledger.as_rows([{"id": "a", "fetched_at": now}])["fetched_at"].to_list() == [now]


def test_the_data_version_is_that_of_the_images() -> None:
    first, second = ok(URL, sha256="1" * 64), {**ok(URL, sha256="2" * 64), "id": "b"}
    rows = ledger.as_rows([first, second])
    version = ledger.data_version(rows)
    later = ledger.as_rows([{**second, "fetched_at": NOW + timedelta(1)}, {**first, "etag": "x"}])
    failed = ledger.failed(Item("c", URL, 0), "http_404", "", NOW)
    assert ledger.data_version(later) == version
    assert ledger.data_version(ledger.as_rows([first, second, failed])) == version
    assert ledger.data_version(ledger.as_rows([first])) != version
    assert ledger.data_version(ledger.as_rows([first, {**second, "sha256": "3" * 64}])) != version


def ok(url: str, sha256: str = "a" * 64, etag: str | None = None) -> dict[str, Any]:
    return {
        "id": "a",
        "url": url,
        "status": "ok",
        "transient": False,
        "attempts": 0,
        "sha256": sha256,
        "etag": etag,
        "fetched_at": NOW,
    }


def planned(
    url: str,
    known: dict[str, Any] | None,
    *,
    now: datetime = NOW,
    stamp: str | None = None,
    lost: set[str] | None = None,
) -> list[Item]:
    """What a run fetches of a catalogue with the one item "a", of which a row is known."""
    plan = ledger.plan(
        pl.DataFrame({"id": ["a"], "url": [url]}),
        ledger.as_rows([known] if known else []),
        now=now,
        stamp=lambda _: stamp,
        lost=lost or set(),
    )
    return plan.fetch
