"""Decisions that people record about pairs: checked, causal, and never lost."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from imgsim_assets.errors import DecisionError, StoreError
from imgsim_assets.pipeline.decisions import RecordReport, record_decisions
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.reviews.table import latest_decisions, read_reviews
from imgsim_assets.similarity.duplicate_groups import GroupStage
from imgsim_assets.similarity.settings import CrossCatalogGroupSettings, GroupSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, sha256_of, tiny

_NOON = datetime(2026, 5, 31, 12, tzinfo=UTC)
_A, _B = sha256_of(tiny(1)), sha256_of(tiny(2))


def _row(verdict: str = "different", **values: Any) -> dict[str, Any]:
    ids = {"left_id": "p1", "right_id": "s1", "left_sha256": _A, "right_sha256": _B}
    return {**ids, "verdict": verdict, **values}


@pytest.fixture
def matched(store: Store) -> Store:
    """A store with the match table `pair` of products p1, p2 and suppliers s1, s2."""
    indexed(store, "products", {"p1": tiny(1), "p2": tiny(2)})
    indexed(store, "suppliers", {"s1": tiny(2), "s2": tiny(3)})
    _pipeline(store).run()
    return store


def _pipeline(store: Store) -> MatchPipeline:
    settings = MatchMatrixSettings(name="pair", left="products", right="suppliers", threshold=-1)
    return MatchPipeline(store, settings)


def _decisions(store: Store, name: str = "pair") -> pl.DataFrame:
    table = store.table(f"reviews/{name}")
    return read_reviews(table, table.latest())


def test_a_recorded_decision_holds_from_the_next_run(matched: Store) -> None:
    report = record_decisions(matched, "pair", [_row(note=" seen ")], "ann", _NOON)
    run = _pipeline(matched).run()

    assert report == RecordReport(added=1, version=1)
    assert _decisions(matched).select("reviewer", "note").rows() == [("ann", "seen")]
    rows = _pipeline(matched).rows(run)
    assert ("p1", "s1") not in rows.select("left_id", "right_id").rows()


def test_cleared_takes_the_decision_of_the_same_moment_back(matched: Store) -> None:
    record_decisions(matched, "pair", [_row("match")], "ann", _NOON)
    record_decisions(matched, "pair", [_row("cleared")], "ann", _NOON)

    decisions = _decisions(matched)
    assert not latest_decisions(decisions).height
    assert decisions["decided_at"].to_list() == [_NOON, _NOON + timedelta(milliseconds=1)]


def test_a_decision_comes_after_those_that_its_person_saw_whatever_the_clock(
    matched: Store,
) -> None:
    record_decisions(matched, "pair", [_row("match")], "zoe", _NOON + timedelta(hours=1))
    record_decisions(matched, "pair", [_row("different")], "ann", _NOON)

    assert latest_decisions(_decisions(matched))["verdict"].to_list() == ["different"]


def test_a_repeated_request_records_nothing_twice(matched: Store) -> None:
    later = _NOON + timedelta(seconds=3)
    reports = [record_decisions(matched, "pair", [_row()], "ann", now) for now in (_NOON, later)]

    assert reports == [RecordReport(1, 1), RecordReport(0, 1)]


def test_clearing_what_nobody_decided_records_nothing(matched: Store) -> None:
    assert record_decisions(matched, "pair", [_row("cleared")], "ann", _NOON) == (0, 0)


def test_times_are_stored_in_utc(matched: Store) -> None:
    summer = datetime(2026, 5, 31, 14, tzinfo=timezone(timedelta(hours=2)))
    record_decisions(matched, "pair", [_row()], "ann", summer)

    assert _decisions(matched)["decided_at"].to_list() == [_NOON]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (_row("same"), "row 2: verdict 'same' is not one of match, different, unsure, cleared"),
        (_row(right_sha256=None), "row 2: right_sha256 is missing"),
        (_row(right_sha256="b" * 63), "row 2: right_sha256 is not a sha256 of 64 hex digits"),
        (_row(right_sha256=_A), "row 2: 's1' of suppliers no longer has the image "),
        (_row(left_id="nobody"), "row 2: products has no item 'nobody' with an image"),
        (_row(left_id=7), "row 2: left_id is not text"),
        (_row(left_id="\ud800"), "row 2: left_id is not text"),
        (_row(note="\ud83d"), "row 2: note is not text"),
        (_row(note="x" * 3000), "row 2: note has 3000 characters; use at most 2000"),
        (_row(reviewer="bob"), "row 2: there is no field 'reviewer'"),
    ],
)
def test_rows_that_are_no_decision_are_refused_and_nothing_is_recorded(
    matched: Store, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DecisionError) as refused:
        record_decisions(matched, "pair", [_row("match"), row], "ann", _NOON)

    assert message in str(refused.value)
    assert not _decisions(matched).height


def test_a_decision_needs_a_person_and_a_zone(matched: Store) -> None:
    with pytest.raises(DecisionError, match="reviewer is empty"):
        record_decisions(matched, "pair", [_row()], "  ", _NOON)
    with pytest.raises(DecisionError, match="no time zone"):
        record_decisions(matched, "pair", [_row()], "ann", _NOON.replace(tzinfo=None))


def test_what_was_decided_about_a_changed_image_can_be_taken_back(matched: Store) -> None:
    record_decisions(matched, "pair", [_row()], "ann", _NOON)
    indexed(matched, "products", {"p1": tiny(5)})

    assert record_decisions(matched, "pair", [_row("cleared")], "ann", _NOON).added == 1


def test_pairs_of_groups_have_no_direction(store: Store) -> None:
    indexed(store, "shop", {"a": tiny(1), "b": tiny(2)})
    GroupStage(store, "shop", GroupSettings(threshold=0.9)).run()
    swapped = _row(left_id="b", right_id="a", left_sha256=_B, right_sha256=_A)

    record_decisions(store, "groups/shop", [swapped], "ann", _NOON)

    columns = ("left_id", "right_id", "left_sha256", "right_sha256")
    assert _decisions(store, "groups/shop").select(columns).rows() == [("a", "b", _A, _B)]
    with pytest.raises(DecisionError, match="row 1: 'a' is paired with itself"):
        record_decisions(store, "groups/shop", [swapped | {"left_id": "a"}], "ann", _NOON)


def test_groups_across_catalogs_name_the_catalog_of_an_item(store: Store) -> None:
    indexed(store, "ours", {"x/1": tiny(1)})
    indexed(store, "theirs", {"y": tiny(2)})
    stage = GroupStage(
        store, "both", CrossCatalogGroupSettings(threshold=0.9), catalogs=["ours", "theirs"]
    )
    stage.run()

    row = _row(left_id="theirs/y", right_id="ours/x/1", left_sha256=_B, right_sha256=_A)
    record_decisions(store, "groups/both", [row], "ann", _NOON)

    assert _decisions(store, "groups/both")["left_id"].to_list() == ["ours/x/1"]
    with pytest.raises(DecisionError, match="row 1: 'y' is no item of groups/both; write the cat"):
        record_decisions(store, "groups/both", [row | {"left_id": "y"}], "ann", _NOON)


def test_an_unknown_result_is_named_with_those_that_exist(matched: Store) -> None:
    with pytest.raises(StoreError, match="has no match table 'other'; it has pair"):
        record_decisions(matched, "other", [_row()], "ann", _NOON)
    with pytest.raises(StoreError, match="has no groups 'groups/pair'; it has pair"):
        record_decisions(matched, "groups/pair", [_row()], "ann", _NOON)


def test_processes_that_record_at_once_lose_no_decision(matched: Store, tmp_path: Path) -> None:
    people = ["ann", "bob"]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_record_many, args=(matched.url, who)) for who in people]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 2
    decisions = _decisions(matched)
    counts = dict(decisions["reviewer"].value_counts().iter_rows())
    assert counts == dict.fromkeys(people, 5)
    # Every decision was made after the one before it, so their times tell the order.
    assert decisions["decided_at"].n_unique() == 10
    assert matched.table("reviews/pair").versions() == list(range(1, 11))


def _record_many(url: str, reviewer: str) -> None:
    store = Store.open(url)
    for number in range(5):
        row = _row("match" if number % 2 else "different", note=f"{reviewer} {number}")
        record_decisions(store, "pair", [row], reviewer, _NOON)
