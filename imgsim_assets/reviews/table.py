"""The tables `reviews/<pair>`: what people decided about pairs of items, row by row.

Rows are only ever added. The latest decision about a pair counts, whichever way it came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

import polars as pl

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets.storage.table_files import REBUILD

Verdict = Literal["match", "different", "unsure", "cleared"]
VERDICTS: Final = get_args(Verdict)
MATCH, DIFFERENT, UNSURE, CLEARED = VERDICTS
REVIEWS = "reviews"
GROUPS = "groups"
PAIR = ("left_id", "right_id")
IMAGES = ("left_sha256", "right_sha256")
SCHEMA: Mapping[str, pl.DataType] = {
    "left_id": pl.String(),
    "right_id": pl.String(),
    "left_sha256": pl.String(),
    "right_sha256": pl.String(),
    "verdict": pl.String(),
    "reviewer": pl.String(),
    "note": pl.String(),
    "decided_at": pl.Datetime("ms", "UTC"),
    # The name of the file that the decision is from; null of one that was made on a page.
    "source": pl.String(),
}
# With more files than this, a commit writes all rows as one file.
_MAX_FILES = 32
# What a decision says, beside its time.
_SAID = tuple(name for name in SCHEMA if name not in ("decided_at", "source"))
# What makes two rows one decision, wherever they are from.
_IDENTITY = (*_SAID, "decided_at")
_TICK = timedelta(milliseconds=1)
# What to do about damaged decisions, which no run computes again.
REPAIR = (
    "'imgsim verify --repair' drops it and restores what earlier versions have of its decisions; "
    "then import the files of decisions again"
)
# The order in which decisions about a pair were made; the last one counts.
_ORDER = ("decided_at", "reviewer", "verdict", "left_sha256", "right_sha256", "note")


def reviews_table(store: Store, name: str) -> Table:
    """`reviews/<name>`, the decisions about a match table; see SCHEMA."""
    return store.table(f"{REVIEWS}/{name}")


def group_reviews_table(store: Store, name: str) -> Table:
    """`reviews/groups/<name>`, the decisions about the pairs of duplicate groups; see SCHEMA."""
    return store.table(f"{REVIEWS}/{GROUPS}/{name}")


def swapped(reviews: pl.DataFrame) -> pl.DataFrame:
    """The same decisions with left and right exchanged."""
    ends = [(f"left_{name}", f"right_{name}") for name in ("id", "sha256")]
    return reviews.with_columns(
        pl.col(other).alias(name) for pair in ends for name, other in (pair, pair[::-1])
    )


def unordered(reviews: pl.DataFrame) -> pl.DataFrame:
    """Decisions about pairs without a direction: the smaller id is on the left."""
    is_turned = pl.col("left_id") > pl.col("right_id")
    ends = [(f"left_{name}", f"right_{name}") for name in ("id", "sha256")]
    return reviews.with_columns(
        pl.when(is_turned).then(pl.col(other)).otherwise(pl.col(name)).alias(name)
        for pair in ends
        for name, other in (pair, pair[::-1])
    )


def empty_reviews() -> pl.DataFrame:
    """No decisions."""
    return pl.DataFrame(schema=SCHEMA)


def read_reviews(table: Table, commit: Commit | None) -> pl.DataFrame:
    """All decisions of a version in the order in which they were made; none without a version.

    Raises:
        CorruptFileError: a file is missing or damaged.
    """
    if commit is None:
        return empty_reviews()
    try:
        read = table.read(commit)
    except CorruptFileError as error:
        raise CorruptFileError(f"{str(error).removesuffix(REBUILD)}{REPAIR}") from error
    rows = pl.concat([empty_reviews(), read], how="diagonal_relaxed")
    return rows.select(list(SCHEMA)).unique(maintain_order=True).sort(_ORDER, nulls_last=False)


def without_contradictions(reviews: pl.DataFrame) -> pl.DataFrame:
    """The decisions of `read_reviews` without those that never count.

    Of a person's verdicts about a pair at one time the last one does. A file with all of them would
    contradict itself.
    """
    at_once = [*PAIR, "reviewer", "decided_at"]
    return reviews.filter(pl.col("verdict") == pl.col("verdict").last().over(at_once))


def add_reviews(table: Table, rows: pl.DataFrame) -> tuple[Commit | None, int]:
    """Add decisions (SCHEMA); a decision that the table has already is not added again.

    Returns:
        The newest commit, and the number of decisions that were new.
    """
    added = 0

    def change(base: Commit | None) -> PendingCommit | None:
        nonlocal added
        existing = read_reviews(table, base)
        new = (
            rows.select(list(SCHEMA))
            .unique(_IDENTITY, keep="first", maintain_order=True)
            .join(existing, on=_IDENTITY, how="anti", nulls_equal=True)
        )
        added = new.height
        if not added:
            return None
        return PendingCommit(_files_with(table, base, existing, new.sort(_ORDER)))

    return table.commit(change), added


def add_made_now(table: Table, rows: pl.DataFrame, now: datetime) -> tuple[Commit | None, int]:
    """Add decisions that people make now, each after all those about its pair that there are.

    A decision is a millisecond later than the latest one about the pair, in either direction, if
    that is not before `now`: clocks differ, and the person has seen what stood. One that repeats
    what the pair's latest decision says is not added again.

    Args:
        table: the table of the decisions.
        rows: columns of SCHEMA but decided_at, in the order in which they are made.
        now: the time.

    Returns:
        The newest commit, and the number of decisions that were new.
    """
    added = 0

    def change(base: Commit | None) -> PendingCommit | None:
        nonlocal added
        existing = read_reviews(table, base)
        new = _made_after(existing, rows, now)
        added = new.height
        return PendingCommit(_files_with(table, base, existing, new)) if added else None

    return table.commit(change), added


def _made_after(existing: pl.DataFrame, rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
    ids = pl.concat([rows["left_id"], rows["right_id"]]).unique().implode()
    of_pairs = existing.filter(pl.col(name).is_in(ids) for name in PAIR)
    latest = {_unordered(row): row for row in of_pairs.iter_rows(named=True)}
    new = []
    for row in rows.iter_rows(named=True):
        before = latest.get(_unordered(row))
        said = before if before is not None else {"verdict": CLEARED}
        if all(said.get(name) == row[name] for name in (_SAID if before else ("verdict",))):
            continue
        row["decided_at"] = now
        if before is not None:
            row["decided_at"] = max(now, before["decided_at"] + _TICK)
        latest[_unordered(row)] = row
        new.append(row)
    return pl.DataFrame(new, schema=SCHEMA, orient="row")


def _unordered(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(row[name] for name in PAIR))


def edits_without_time(rows: pl.DataFrame, existing: pl.DataFrame) -> pl.DataFrame:
    """The rows of a file, without the times of those that were edited in an exported file.

    Such a row keeps the time of the decision that it was, but is a decision of now. It is the last
    one of the file about its pair and reviewer, the table has a decision of its time, and it says
    something else than that decision, or than this file's later one.

    Args:
        rows: columns of SCHEMA; sha256 and decided_at may be null.
        existing: the decisions of the table.
    """
    numbered = rows.with_row_index("__row")
    by = [*PAIR, "reviewer"]
    at = [*by, "decided_at"]
    last = numbered.filter(pl.col("decided_at").is_not_null()).sort("decided_at")
    last = last.unique(by, keep="last", maintain_order=True)
    exported = last.join(existing, on=at, how="semi", nulls_equal=True)
    of_file = existing.sort(_ORDER, nulls_last=False).unique(
        [*by, "source"], keep="last", maintain_order=True
    )
    later = exported.join(of_file, on=[*by, "source"], nulls_equal=True, suffix="_later")
    later = later.filter(pl.col("decided_at") < pl.col("decided_at_later"))
    returned = exported.join(later, on="__row", how="semi")
    edited = pl.concat(
        [
            exported.filter(~pl.col("__row").is_in(_alike(exported, existing, at).implode())),
            returned.filter(
                ~pl.col("__row").is_in(_alike(returned, of_file, [*by, "source"]).implode())
            ),
        ]
    )
    is_edited = numbered["__row"].is_in(edited["__row"].implode())
    return rows.with_columns(pl.when(~is_edited).then("decided_at").alias("decided_at"))


def unknown_reviews(rows: pl.DataFrame, existing: pl.DataFrame) -> pl.DataFrame:
    """The decisions of a file that a table does not have, with their columns, in their order.

    A row with a time is known if there is the same decision. A row without one says what the file
    says now: it is known if the last decision of that reviewer that came from this file says the
    same or, where none did, if any decision does. What a row leaves open agrees with everything.

    Args:
        rows: columns of SCHEMA; sha256 and decided_at may be null.
        existing: the decisions of the table.
    """
    numbered = rows.with_row_index("__row")
    is_timed = pl.col("decided_at").is_not_null()
    by = [*PAIR, "reviewer"]
    last = existing.sort(_ORDER, nulls_last=False).unique(
        [*by, "source"], keep="last", maintain_order=True
    )
    undated = numbered.filter(~is_timed)
    has_last = undated.join(last, on=[*by, "source"], how="semi", nulls_equal=True)
    rest = undated.join(has_last, on="__row", how="anti")
    known = [
        _alike(numbered.filter(is_timed), existing, [*by, "decided_at"]),
        _alike(has_last, last, [*by, "source"]),
        _alike(rest, existing, by),
    ]
    return rows.filter(~numbered["__row"].is_in(pl.concat(known).implode()))


def _alike(rows: pl.DataFrame, existing: pl.DataFrame, on: list[str]) -> pl.Series:
    """The numbers of the rows that say what an existing decision with the same keys says."""
    pairs = rows.join(existing, on=on, how="inner", nulls_equal=True, suffix="_existing")
    says_the_same = [
        pl.col(name).eq_missing(pl.col(f"{name}_existing")) for name in ("verdict", "note")
    ]
    same_images = [
        pl.col(name).is_null() | (pl.col(name) == pl.col(f"{name}_existing")) for name in IMAGES
    ]
    return pairs.filter(*says_the_same, *same_images)["__row"].unique()


def _files_with(
    table: Table, base: Commit | None, existing: pl.DataFrame, new: pl.DataFrame
) -> list[DataFile]:
    files = list(base.files) if base is not None else []
    if len(files) < _MAX_FILES:
        return [*files, table.write_rows(new)]
    return [table.write_rows(pl.concat([existing, new]).sort(_ORDER))]


def drop_damaged(table: Table) -> int:
    """Commit a table without its damaged files, but with the intact ones of earlier versions.

    Rows are only ever added, so every decision that an earlier version has is one of the table.

    Returns:
        The number of files that were dropped.
    """
    earlier = [file for version in table.versions() for file in _files_of(table, version)]
    intact = {file.path: file for file in earlier if table.is_intact(file)}
    dropped = 0

    def change(base: Commit | None) -> PendingCommit | None:
        nonlocal dropped
        if base is None:
            return None
        kept = [file for file in base.files if table.is_intact(file)]
        dropped = len(base.files) - len(kept)
        if not dropped:
            return None
        files = {**intact, **{file.path: file for file in kept}}
        return PendingCommit(list(files.values()), base.inputs, base.properties)

    table.commit(change)
    return dropped


def _files_of(table: Table, version: int) -> Sequence[DataFile]:
    """The files of a version; none if it is damaged or deleted."""
    try:
        return table.at(version).files
    except StoreError:
        return ()


def latest_decisions(reviews: pl.DataFrame) -> pl.DataFrame:
    """The decision about each pair that counts: the latest, ties by the name of the reviewer.

    Args:
        reviews: rows of SCHEMA in any order.

    Returns:
        At most one row for each left_id and right_id, sorted by both; a pair whose latest
        decision was taken back has none.
    """
    last = reviews.sort(_ORDER, nulls_last=False).unique(
        list(PAIR), keep="last", maintain_order=True
    )
    return last.filter(pl.col("verdict") != CLEARED).sort(PAIR)
