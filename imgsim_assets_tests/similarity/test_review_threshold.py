"""Decisions move the threshold `auto` of a match table, and one more of them does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import polars as pl
import pytest

from imgsim_assets.pipeline.decisions import record_decisions
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.review_pairs import informative_pairs
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.similarity.decided_threshold import DecidedThreshold
from imgsim_assets.similarity.matches import MatchReport, match_table
from imgsim_assets.similarity.review_threshold import _kept, latest_threshold, threshold_of
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import indexed, tiny

_NOW = datetime(2026, 5, 31, 12, tzinfo=UTC)


@pytest.fixture
def unlike(store: Store) -> Store:
    """Left items that are like no right one: every best pair is different."""
    indexed(store, "ours", {f"o{n}": tiny(n) for n in range(60)})
    indexed(store, "theirs", {f"t{n}": tiny(1000 + n) for n in range(60)})
    return store


def _run(store: Store) -> MatchReport:
    settings = MatchMatrixSettings(name="pair", left="ours", right="theirs", threshold="auto")
    return MatchPipeline(store, settings).run()


def _judge(store: Store, pairs: pl.DataFrame, verdict: str) -> None:
    columns = ["left_id", "right_id", "left_sha256", "right_sha256"]
    rows = [row | {"verdict": verdict} for row in pairs.select(columns).to_dicts()]
    record_decisions(store, "pair", rows, "ann", _NOW)


def test_thirty_matches_below_the_threshold_lower_it(unlike: Store) -> None:
    before = _run(unlike)
    pairs = informative_pairs(unlike, "pair", 45)
    _judge(unlike, pairs.head(29), "match")
    few = _run(unlike)
    _judge(unlike, pairs.tail(-29), "match")

    enough = _run(unlike)

    assert (few.threshold, few.by_decisions) == (before.threshold, None)
    assert enough.by_decisions is not None
    assert enough.by_decisions.pairs == enough.by_decisions.matches == 45
    assert enough.threshold < before.threshold
    assert "as 45 judged pairs around it tell" in enough.threshold_source
    assert f"{before.threshold:g} without them" in enough.threshold_source
    assert latest_threshold(unlike, "pair") == enough.by_decisions


def test_one_more_decision_leaves_the_threshold_and_no_change_computes_nothing(
    unlike: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(unlike)
    _judge(unlike, informative_pairs(unlike, "pair", 40), "match")
    first = _run(unlike)
    _judge(unlike, informative_pairs(unlike, "pair", 1), "match")

    second = _run(unlike)
    monkeypatch.setattr(
        "imgsim_assets.similarity.review_threshold.best_pairs", lambda *_: pytest.fail("compared")
    )
    third = _run(unlike)

    assert second.threshold == first.threshold == third.threshold
    assert second.by_decisions is not None
    assert first.by_decisions is not None
    assert second.by_decisions.pairs > first.by_decisions.pairs
    assert not third.changed


def test_declared_threshold_is_not_moved(unlike: Store) -> None:
    settings = MatchMatrixSettings(name="pair", left="ours", right="theirs", threshold=0.7)
    MatchPipeline(unlike, settings).run()
    _judge(unlike, informative_pairs(unlike, "pair", 40), "match")

    report = MatchPipeline(unlike, settings).run()

    assert (report.threshold, report.by_decisions) == (0.7, None)


def test_declared_threshold_that_equals_the_decided_one_is_not_that_of_decisions(
    unlike: Store,
) -> None:
    _run(unlike)
    _judge(unlike, informative_pairs(unlike, "pair", 40), "match")
    decided = _run(unlike)
    by_decisions = threshold_of(unlike, match_table(unlike, "pair").at(decided.version))
    settings = MatchMatrixSettings(
        name="pair", left="ours", right="theirs", threshold=decided.threshold
    )

    declared = MatchPipeline(unlike, settings).run()

    assert by_decisions == decided.by_decisions is not None
    assert declared.matches == decided.matches
    assert threshold_of(unlike, match_table(unlike, "pair").at(declared.version)) is None


def test_threshold_that_claims_no_budget_is_replaced_by_one_that_does() -> None:
    stored = DecidedThreshold(
        value=0.78,
        low=0.75,
        high=0.8,
        pairs=40,
        matches=9,
        sampled=0,
        lowest=0.7,
        highest=0.77,
        is_within=False,
    )
    estimate = replace(stored, value=0.79, highest=0.85, is_within=True)
    near = replace(stored, value=0.785, highest=0.784)

    assert _kept(stored, estimate) == estimate
    assert _kept(stored, near).value == 0.78
