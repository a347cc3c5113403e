"""The pairs that match before people's decisions: those whose precision decisions measure."""

from __future__ import annotations

import polars as pl

from imgsim_assets.similarity.item_pairs import SCHEMA
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.table import Table

# The file of the pairs that decisions removed from a match table or added to it.
CHANGED_BY_DECISIONS = "changed_by_decisions"
_IS_REMOVED = "is_removed"
_PAIR = ["left_id", "right_id"]


def changes_by_decisions(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The pairs that decisions removed, and those that they added.

    Args:
        before: the pairs (`item_pairs.SCHEMA`) that match without decisions.
        after: those that match with them.

    Returns:
        The pairs of one of both only, with `is_removed`.
    """
    removed = before.join(after, on=_PAIR, how="anti")
    added = after.join(before, on=_PAIR, how="anti")
    return pl.concat(
        each.select(list(SCHEMA)).with_columns(pl.lit(is_removed).alias(_IS_REMOVED))
        for each, is_removed in ((removed, True), (added, False))
    )


def matches_before_decisions(table: Table, commit: Commit, rows: pl.DataFrame) -> pl.DataFrame:
    """The pairs that match before decisions, each once.

    Args:
        table: a match table.
        commit: one of its versions.
        rows: the rows of that version.

    Returns:
        The columns of `item_pairs.SCHEMA`. Of a catalog that is matched with itself, an item is no
        pair with itself, and of (a, b) and (b, a) the pair with the smaller left_id is there.
    """
    pairs = rows.select(list(SCHEMA))
    file = commit.file_with_role(CHANGED_BY_DECISIONS)
    if file is not None:
        changes = table.read_file(file)
        added = changes.filter(~pl.col(_IS_REMOVED))
        removed = changes.filter(_IS_REMOVED).select(list(SCHEMA))
        pairs = pl.concat([pairs.join(added, on=_PAIR, how="anti"), removed])
    if commit.properties["left"] != commit.properties["right"]:
        return pairs
    others = pairs.filter(pl.col("left_id") != pl.col("right_id"))
    ordered = others.filter(pl.col("left_id") < pl.col("right_id"))
    mirrored = ordered.select(left_id="right_id", right_id="left_id")
    alone = others.filter(pl.col("left_id") > pl.col("right_id")).join(
        mirrored, on=_PAIR, how="anti"
    )
    return pl.concat([ordered, alone])
