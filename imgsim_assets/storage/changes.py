"""What changed between two versions of a table, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.reader import resolve_version
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

CHANGE = "change"
# What tells the rows of a table apart, where it is not the table's own key.
_PAIRS = (["left_id", "right_id"], ["src_id", "dst_id"])


@dataclass(frozen=True)
class Changes:
    """The rows that differ between the versions `since` and `until` of a table.

    `rows` has the table's columns behind the column `change`: "added" and "changed" rows are
    those of `until`, "removed" rows those of `since`. Sorted by the rows' key.
    """

    since: int
    until: int
    rows: pl.DataFrame


def read_changes(
    name: str,
    *,
    since: int,
    until: int | None = None,
    store: Store | str | Path | None = None,
) -> Changes:
    """What a table gained, lost and changed after the version `since`.

    `since=0` stands for the empty table before the first version; `until` is the newest unless
    given. A reader that remembers `until` and asks for what came `since` sees every change
    once. Raises StoreError when a version is no longer kept: then read the whole table.
    """
    opened = store if isinstance(store, Store) else Store.open(store)
    table, newer = resolve_version(opened, name, until)
    if newer.version < since:
        raise StoreError(f"{name} is at version {newer.version}, and has none after {since}")
    older = table.at(since) if since else None
    before, after = _both(table, older, newer)
    return Changes(since, newer.version, _compared(before, after, _key(newer, after, name)))


def _both(table: Table, older: Commit | None, newer: Commit) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of both versions, with the columns and types of both."""
    after = table.read(newer)
    before = table.read(older) if older is not None else after.clear()
    return (
        pl.concat([before, after.clear()], how="diagonal_relaxed"),
        pl.concat([before.clear(), after], how="diagonal_relaxed"),
    )


def _key(commit: Commit, rows: pl.DataFrame, name: str) -> list[str]:
    if commit.key is not None:
        return [commit.key]
    for pair in _PAIRS:
        if set(pair) <= set(rows.columns):
            return pair
    raise StoreError(f"the rows of {name} have no key by which they could be told apart")


def _compared(before: pl.DataFrame, after: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    added = after.join(before, on=key, how="anti")
    removed = before.join(after, on=key, how="anti")
    kept = after.join(before, on=key, how="semi")
    changed = kept.join(before, on=before.columns, how="anti", nulls_equal=True)
    kinds = [("added", added), ("changed", changed), ("removed", removed)]
    marked = [rows.select(pl.lit(kind).alias(CHANGE), pl.all()) for kind, rows in kinds]
    return pl.concat(marked).sort(key)
