"""The rows that differ between two versions of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import key_columns
from imgsim_assets.storage.reader import open_store, resolve_version

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.storage.commit import Commit
    from imgsim_assets.storage.store import Store

CHANGE = "change"
# The keys of tables whose commits name no key: pairs, and groups of one or several catalogs.
_KEYS = (["left_id", "right_id"], ["src_id", "dst_id"], ["catalog", "id"], ["id"])


@dataclass(frozen=True)
class Changes:
    """The rows that differ between two versions of a table.

    Args:
        since: The older version.
        until: The newer version.
        rows: The table's columns after a column `change`: "added" and "changed" rows are those of
            `until`, "removed" rows those of `since`. Sorted by key.
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
    """The rows that were added, changed and removed after a version of a table.

    A reader that remembers `until` and passes it as the next `since` sees every change once.

    Args:
        name: Such as "matches/products__suppliers".
        since: The older version; 0 is the empty table before version 1.
        until: The newer version; default: the newest.
        store: As of `read_table`.

    Raises:
        StoreError: A version does not exist (any more), or the table has no key. If garbage
            collection deleted the version, read the whole table.

    Examples:
        >>> from imgsim_assets import read_changes
        >>> changes = read_changes("matches/products__suppliers", since=41)
        >>> changes.rows.filter(pl.col("change") == "removed")
    """
    opened = open_store(store)
    table, newer = resolve_version(opened, name, until)
    if newer.version < since:
        raise StoreError(f"{name} is at version {newer.version}, so there is none after {since}")
    older = table.at(since) if since else None
    after = table.read(newer)
    before = table.read(older) if older is not None else after.clear()
    return Changes(since, newer.version, compare(before, after, key_of(newer, after, name)))


def key_of(commit: Commit, rows: pl.DataFrame, name: str) -> list[str]:
    """The columns that identify a row of a table.

    Raises:
        StoreError: the table has no key.
    """
    if commit.key is not None:
        return key_columns(commit.key)
    for key in _KEYS:
        if set(key) <= set(rows.columns):
            return key
    raise StoreError(f"table {name} has no key, so its versions cannot be compared")


def compare(before: pl.DataFrame, after: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The rows that differ between two versions of a table, with the column `change`."""
    import polars as pl

    # Both frames get the columns and types of both.
    before, after = (
        pl.concat([before, after.clear()], how="diagonal_relaxed"),
        pl.concat([before.clear(), after], how="diagonal_relaxed"),
    )
    in_both = after.join(before, on=key, how="semi")
    added = after.join(before, on=key, how="anti")
    changed = in_both.join(before, on=before.columns, how="anti", nulls_equal=True)
    removed = before.join(after, on=key, how="anti")
    kinds = [("added", added), ("changed", changed), ("removed", removed)]
    labeled = [rows.select(pl.lit(kind).alias(CHANGE), pl.all()) for kind, rows in kinds]
    return pl.concat(labeled).sort(key)
