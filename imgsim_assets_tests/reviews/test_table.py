from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.pipeline.repair import repair
from imgsim_assets.reviews.files import read_verdicts
from imgsim_assets.reviews.table import (
    SCHEMA,
    VERDICTS,
    add_reviews,
    drop_damaged,
    group_reviews_table,
    latest_decisions,
    read_reviews,
    reviews_table,
    unknown_reviews,
    without_contradictions,
)
from imgsim_assets.storage.gc import collect_garbage
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.damage import flip_bit

_NOON = datetime(2026, 5, 31, 12, tzinfo=UTC)


def _reviews(*rows: Sequence[Any]) -> pl.DataFrame:
    """Decisions of (left_id, right_id, verdict, reviewer, minutes after noon)."""
    columns = ["left_id", "right_id", "verdict", "reviewer"]
    frame = pl.DataFrame([row[:4] for row in rows], schema=columns, orient="row")
    times = [_NOON + timedelta(minutes=row[4]) for row in rows]
    return frame.with_columns(
        pl.lit("a" * 64).alias("left_sha256"),
        pl.lit("b" * 64).alias("right_sha256"),
        pl.lit(None, pl.String).alias("note"),
        pl.Series("decided_at", times, SCHEMA["decided_at"]),
        pl.lit(None, pl.String).alias("source"),
    ).select(list(SCHEMA))


def test_the_latest_decision_counts_whatever_the_order_of_the_rows() -> None:
    rows = _reviews(("l", "r", "different", "ann", 2), ("l", "r", "match", "bob", 1))

    for each in (rows, rows.reverse()):
        assert latest_decisions(each)["verdict"].to_list() == ["different"]


def test_of_decisions_at_the_same_time_that_of_the_last_reviewer_by_name_counts() -> None:
    rows = _reviews(("l", "r", "different", "ann", 1), ("l", "r", "match", "bob", 1))

    assert latest_decisions(rows)["reviewer"].to_list() == ["bob"]


def test_of_a_persons_verdicts_at_one_time_the_last_is_exported(tmp_path: Path) -> None:
    table = reviews_table(Store.open(tmp_path / "store"), "a__b")
    tied = [("l", "r", verdict, "ann", 1) for verdict in ("match", "different")]
    others = [("l", "r", "match", "bob", 1), ("l", "r", "unsure", "ann", 0)]
    commit, _ = add_reviews(table, _reviews(*tied, *others))

    rows = without_contradictions(read_reviews(table, commit))

    said = rows.select("verdict", "reviewer").rows()
    assert said == [("unsure", "ann"), ("match", "ann"), ("match", "bob")]
    assert latest_decisions(rows).equals(latest_decisions(read_reviews(table, commit)))
    rows.write_parquet(tmp_path / "export.parquet")
    assert read_verdicts(tmp_path / "export.parquet").height == rows.height


def test_a_decision_that_was_taken_back_does_not_count() -> None:
    rows = _reviews(("l", "r", "different", "ann", 1), ("l", "r", "cleared", "ann", 2))

    assert not latest_decisions(rows).height


def test_a_decision_is_added_once(tmp_path: Path) -> None:
    table = reviews_table(Store.open(tmp_path), "a__b")
    first, second = ("l", "r", "match", "ann", 1), ("l", "s", "match", None, 1)

    assert add_reviews(table, _reviews(first))[1] == 1
    assert add_reviews(table, _reviews(first, second))[1] == 1
    commit, added = add_reviews(table, _reviews(first, second))

    assert added == 0
    assert commit is not None
    assert commit.version == 2
    assert read_reviews(table, commit).height == 2


@pytest.mark.parametrize(
    "open_columns", [("decided_at",), ("left_sha256", "right_sha256"), ("right_sha256",)]
)
def test_a_row_that_leaves_open_its_time_or_images_is_known_if_the_rest_is(
    open_columns: Sequence[str],
) -> None:
    existing = _reviews(("l", "r", "match", "ann", 1))
    rows = _reviews(("l", "r", "match", "ann", 5), ("l", "r", "different", "ann", 5))
    nulls = [pl.lit(None, rows.schema[name]).alias(name) for name in open_columns]
    if "decided_at" not in open_columns:
        rows = rows.with_columns(pl.lit(existing["decided_at"]).first().alias("decided_at"))

    new = unknown_reviews(rows.with_columns(nulls), existing)

    assert new["verdict"].to_list() == ["different"]


def test_damaged_decisions_are_restored_from_earlier_versions(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    table = reviews_table(store, "a__b")
    for number in range(35):  # one of the commits writes all rows as one file
        add_reviews(table, _reviews((f"{number}", "r", "match", "ann", number)))
    newest = table.latest()
    assert newest is not None
    flip_bit(store, table, newest.files[0])
    with pytest.raises(CorruptFileError, match="verify --repair' drops it and restores"):
        read_reviews(table, newest)

    repair(store)

    restored = read_reviews(table, table.latest())
    assert set(restored["left_id"]) == {f"{number}" for number in range(35) if number != 32}
    assert drop_damaged(table) == 0


@pytest.mark.parametrize("of_groups", [False, True])
def test_many_additions_stay_few_files_and_garbage_collection_keeps_every_row(
    tmp_path: Path, of_groups: bool
) -> None:
    store = Store.open(tmp_path)
    table = group_reviews_table(store, "a") if of_groups else reviews_table(store, "a__b")
    for number in range(40):
        add_reviews(table, _reviews(("l", f"r{number}", "match", "ann", number)))

    far_ahead = datetime.now(UTC).timestamp() + 365 * 86_400
    collect_garbage(store, RetentionPolicy(retain_last=1, min_age_hours=1), now=far_ahead)

    commit = table.latest()
    assert commit is not None
    assert len(commit.files) < 35
    assert read_reviews(table, commit).height == 40


def _file(verdict: str, source: str = "v.csv") -> pl.DataFrame:
    """A row of a file without time and images."""
    return _reviews(("l", "r", verdict, "ann", 0)).with_columns(
        pl.lit(None, SCHEMA["decided_at"]).alias("decided_at"),
        pl.lit(None, pl.String).alias("left_sha256"),
        pl.lit(None, pl.String).alias("right_sha256"),
        pl.lit(source).alias("source"),
    )


def _from_file(verdict: str, minute: int, source: str | None = "v.csv") -> pl.DataFrame:
    row = _reviews(("l", "r", verdict, "ann", minute))
    return row.with_columns(pl.lit(source, pl.String).alias("source"))


def test_a_verdict_that_a_file_returns_to_is_a_new_decision() -> None:
    existing = pl.concat([_from_file("different", 1), _from_file("match", 2)])

    assert unknown_reviews(_file("different"), existing).height == 1
    assert not unknown_reviews(_file("match"), existing).height


def test_a_file_that_stays_as_it_is_does_not_decide_against_a_page() -> None:
    existing = pl.concat([_from_file("different", 1), _from_file("match", 2, source=None)])

    assert not unknown_reviews(_file("different"), existing).height
    assert unknown_reviews(_file("cleared"), existing).height == 1


def test_another_file_that_says_what_was_decided_decides_nothing() -> None:
    existing = _from_file("match", 1)

    assert not unknown_reviews(_file("match", "other.csv"), existing).height
    assert unknown_reviews(_file("different", "other.csv"), existing).height == 1


_DECISIONS = st.lists(
    st.tuples(
        st.sampled_from("lm"),
        st.sampled_from("rs"),
        st.sampled_from(VERDICTS),
        st.sampled_from(("ann", "bob", None)),
        st.integers(0, 3),
    ),
    max_size=8,
)


@given(_DECISIONS, st.randoms())
def test_decisions_do_not_depend_on_the_order_in_which_they_arrive(
    rows: list[tuple[Any, ...]], random: Any
) -> None:
    shuffled = random.sample(rows, len(rows))
    if not rows:
        return

    assert latest_decisions(_reviews(*rows)).equals(latest_decisions(_reviews(*shuffled)))


@pytest.mark.parametrize("verdict", VERDICTS)
def test_each_verdict_can_be_stored(tmp_path: Path, verdict: str) -> None:
    table = reviews_table(Store.open(tmp_path), "a__b")

    commit, added = add_reviews(table, _reviews(("l", "r", verdict, "ann", 1)))

    assert added == 1
    assert read_reviews(table, commit)["verdict"].to_list() == [verdict]
