"""The tables of duplicate groups, of one catalog or across several, and decisions about them."""

from __future__ import annotations

import polars as pl

from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.table import GROUPS, PAIR, REVIEWS, read_reviews, unordered
from imgsim_assets.similarity.group_rows import SCHEMA
from imgsim_assets.similarity.items import ORIENTATION
from imgsim_assets.similarity.settings import CROSS_CATALOG_GROUPS
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# Rows of groups across catalogs; there a group_id is catalog/id of its canonical item.
CROSS_CATALOG_SCHEMA = {"group_id": pl.String, "catalog": pl.String, **SCHEMA}
BRIDGES = "bridges"
# The file of the verdicts, with those that were reopened: left_id, right_id and verdict.
DECISIONS = "decisions"
_OF_CATALOG = "/duplicate_groups"
# Between the name of a catalog, which cannot contain it, and an id.
SEPARATOR = "/"


def groups_table(store: Store, name: str, variant: str | None = None) -> Table:
    """`<name>/duplicate_groups`; see SCHEMA, and BRIDGE_SCHEMA for the files of role BRIDGES.

    With orientations there is the column ORIENTATION.

    A `variant` has a table of its own beside the one that the catalog declares.
    """
    return store.table(f"{name}/duplicate_groups" + (f".{variant}" if variant else ""))


def cross_catalog_groups_table(store: Store, name: str) -> Table:
    """`duplicate_groups/<name>`; see CROSS_CATALOG_SCHEMA, and BRIDGE_SCHEMA for role BRIDGES."""
    return store.table(f"{CROSS_CATALOG_GROUPS}/{name}")


def group_decisions(store: Store, table: str, images: RowBlocks) -> Decisions:
    """People's decisions about the pairs of duplicate groups and the variants of them.

    Args:
        store: the store of the groups.
        table: the table of the groups.
        images: id and sha256 of all images; of groups across catalogs, an id is catalog/id.
    """
    reviews = store.table(f"{REVIEWS}/{reviewed_groups(table)}")
    decided = unordered(read_reviews(reviews, reviews.latest()))
    ids = pl.concat([decided[side] for side in PAIR]).unique()
    is_decided = pl.col("id").is_in(ids.implode())
    of_decided = images.filter(is_decided, ["id", "sha256"])
    return Decisions.of(decided, of_decided, of_decided)


def is_groups(table: str) -> bool:
    """Whether a table holds duplicate groups, of one catalog or across several."""
    name = table.partition(".")[0]
    return name.startswith(f"{CROSS_CATALOG_GROUPS}/") or name.endswith(_OF_CATALOG)


def reviewed_groups(table: str) -> str:
    """The name under which groups are reviewed, such as "groups/photos", without a variant."""
    name = table.partition(".")[0].removeprefix(f"{CROSS_CATALOG_GROUPS}/")
    return f"{GROUPS}/{name.removesuffix(_OF_CATALOG)}"


def with_catalog(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose ids are catalog/id, with catalog and id in columns of their own."""
    parts = pl.col("id").str.splitn(SEPARATOR, 2).struct
    split = rows.with_columns(
        parts.field("field_0").alias("catalog"), parts.field("field_1").alias("id")
    )
    return split.select(*CROSS_CATALOG_SCHEMA, *({ORIENTATION} & {*rows.columns}))
