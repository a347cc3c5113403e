"""The invariants of duplicate groups; see `checks`."""

from __future__ import annotations

import polars as pl

from imgsim_assets.pipeline.check_result import CheckResult, problem_of
from imgsim_assets.pipeline.settings import CheckSettings
from imgsim_assets.reviews.table import DIFFERENT, MATCH
from imgsim_assets.similarity.group_rows import BRIDGE_SCHEMA
from imgsim_assets.similarity.group_tables import BRIDGES, DECISIONS, SEPARATOR
from imgsim_assets.similarity.materialized import LEFT_ITEMS, read_role
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.table import Table
from imgsim_assets.text import counted

# Smaller groups are never too large for the number of items.
_SMALL_GROUP = 10
_MAX_EXAMPLES = 3


def one_canonical_per_group(groups: pl.DataFrame) -> CheckResult:
    """Every group has two items or more and one canonical item, and no item is in two groups."""
    by_group = groups.group_by("group_id").agg(
        pl.len().alias("items"), pl.col("is_canonical").sum().alias("canonical")
    )
    bad = by_group.filter((pl.col("items") < 2) | (pl.col("canonical") != 1)).height
    item = [column for column in ("catalog", "id") if column in groups.columns]
    twice = groups.height - groups.select(item).n_unique()
    return CheckResult(
        {"groups": by_group.height, "bad_groups": bad, "items_in_two_groups": twice},
        problem_of(
            "materialize it again",
            (
                bad,
                "group without two items and one canonical item",
                "groups without two items and one canonical item",
            ),
            (twice, "item in two groups", "items in two groups"),
        ),
    )


def suspicious_groups(table: Table, commit: Commit, limits: CheckSettings) -> pl.DataFrame:
    """The groups of a version of duplicate groups that probably join different images.

    Args:
        table: the table of the groups.
        commit: its version.
        limits: `max_group_fraction`, `max_similarity_gap` and `max_bridged_items`.

    Returns:
        group_id, size and problem (text), the largest groups first.
    """
    rows = table.read(commit)
    if "judged" not in rows.columns:  # groups of earlier versions
        rows = rows.with_columns(pl.lit(0).alias("judged"))
    groups = rows.unique("group_id").select("group_id", "size", "min_similarity", "judged")
    apart = _groups_with_different_pairs(table, commit, rows)
    file = commit.file_with_role(BRIDGES)
    bridges = pl.DataFrame(schema=BRIDGE_SCHEMA)
    if file is not None:
        # Groups of earlier versions have bridges without the items of their parts.
        bridges = pl.concat([bridges, table.read_file(file)], how="diagonal_relaxed")
    # What people decided joins no groups by mistake.
    measured = bridges.filter(pl.col("verdict").ne_missing(MATCH))
    parts = measured.group_by("group_id").agg(pl.col("smaller_part").max())
    images = read_role(table, commit, LEFT_ITEMS)
    items = images["id"].n_unique() if images is not None else 0
    most = max(_SMALL_GROUP, limits.max_group_fraction * items)
    lowest = commit.properties["threshold"] - limits.max_similarity_gap
    return (
        groups.join(parts, on="group_id", how="left")
        .with_columns(
            pl.when(pl.col("group_id").is_in(apart.implode()))
            .then(pl.lit("it holds a pair that was judged different"))
            .when(pl.col("size") > most)
            .then(pl.lit("it has too many of the items"))
            .when((pl.col("min_similarity") < lowest) & (pl.col("judged") == 0))
            .then(pl.lit("its minimum similarity is far below the threshold"))
            .when(pl.col("smaller_part") > limits.max_bridged_items)
            .then(pl.lit("a single link joins two parts of it"))
            .alias("problem")
        )
        .filter(pl.col("problem").is_not_null())
        .sort(["size", "group_id"], descending=[True, False])
        .select("group_id", "size", "problem")
    )


def _groups_with_different_pairs(table: Table, commit: Commit, rows: pl.DataFrame) -> pl.Series:
    """The groups that hold a pair that was judged different, against the decisions."""
    file = commit.file_with_role(DECISIONS)
    if file is None:
        return rows["group_id"].clear()
    key = pl.col("id")
    if "catalog" in rows.columns:
        key = pl.concat_str("catalog", pl.lit(SEPARATOR), "id")
    members = rows.select(key.alias("id"), "group_id")
    different = table.read_file(file).filter(pl.col("verdict") == DIFFERENT)
    together = different.join(members, left_on="left_id", right_on="id").join(
        members, left_on=["right_id", "group_id"], right_on=["id", "group_id"], how="semi"
    )
    return together["group_id"]


def groups_coherent(table: Table, commit: Commit, limits: CheckSettings) -> CheckResult:
    """No group probably joins different images; see `suspicious_groups`."""
    suspicious = suspicious_groups(table, commit, limits)
    examples = [
        f"{group!r} of {size} items: {problem}"
        for group, size, problem in suspicious.head(_MAX_EXAMPLES).iter_rows()
    ]
    return CheckResult(
        {"suspicious": suspicious.height, "examples": examples},
        f"different images are probably joined in {counted(suspicious.height, 'group')} "
        f"({'; '.join(examples)}); look at them, and raise the threshold or set 'linkage: star'"
        if examples
        else "",
    )
