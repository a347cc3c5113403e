"""The members of duplicate groups as a person needs them to decide: files, sizes and reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from imgsim_assets.catalog.image_rows import OTHER_URLS
from imgsim_assets.catalog.stage import items_table
from imgsim_assets.download.ledger.table import ledger_table, with_all_columns
from imgsim_assets.similarity.canonical import IS_LINK, PROTECTED, item_ranks
from imgsim_assets.similarity.group_tables import SEPARATOR
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.gc import LOCATION
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

_KEY = ["catalog", "id"]
_FACTS = ["url", LOCATION, "bytes", "width", "height", "format"]


def group_members(store: Store, table: Table, commit: Commit) -> pl.DataFrame:
    """The rows of a version of duplicate groups, with what is known of the members.

    Args:
        store: the store of the groups.
        table: the table of the groups.
        commit: its version.

    Returns:
        For each row, in their order: group_id, catalog, id, then `url`, `path` (where the file
        lies, if the store does not copy it), bytes, width, height and format of its image, the
        columns that the source carries (prefixed by `source_` where a column has that name), the
        other columns of the groups, and `reason`: why it is kept or not.
    """
    catalogs: list[str] = commit.properties["catalogs"]
    rows = table.read(commit)
    if "catalog" not in rows.columns:
        rows = rows.with_columns(pl.lit(catalogs[0]).alias("catalog"))
    files = pl.concat(_files(store, name) for name in catalogs)
    known = rows.join(files, on=[*_KEY, "sha256"], how="left", maintain_order="left")
    carried = pl.concat((_carried(store, name) for name in catalogs), how="diagonal_relaxed")
    reserved = {*known.columns, "path", "reason"}
    carried = carried.rename({name: _free_name(name, reserved) for name in carried.columns[2:]})
    known = known.join(carried, on=_KEY, how="left", maintain_order="left")
    reasons = _reasons(store, rows, commit.properties)
    facts = [*_FACTS, *carried.columns[2:]]
    others = [name for name in rows.columns if name not in ("group_id", *_KEY)]
    return (
        known.with_columns(reasons)
        .select("group_id", *_KEY, pl.col(facts), pl.col(others), "reason")
        .rename({LOCATION: "path"})
    )


def _files(store: Store, name: str) -> pl.DataFrame:
    """The images of a catalog: catalog, id, sha256 and _FACTS."""
    table = ledger_table(store, name)
    commit = table.latest()
    rows = with_all_columns(table.read(commit) if commit is not None else pl.DataFrame())
    return rows.unique(["id", "sha256"], keep="first", maintain_order=True).select(
        pl.lit(name).alias("catalog"), "id", "sha256", *_FACTS
    )


def _carried(store: Store, name: str) -> pl.DataFrame:
    """The items of a catalog: catalog, id and the columns that the source carries."""
    table = items_table(store, name)
    commit = table.latest()
    rows = table.read(commit) if commit is not None else pl.DataFrame(schema={"id": pl.String})
    catalog = pl.lit(name).alias("catalog")
    return rows.select(catalog, "id", pl.exclude("id", "url", OTHER_URLS))


def _free_name(name: str, reserved: set[str]) -> str:
    while name in reserved:
        name = f"source_{name}"
    reserved.add(name)
    return name


# By what decides: why the canonical item is kept, and why another one is not.
_KEPT = {
    IS_LINK: "a file, not a link",
    PROTECTED: "protected",
    "catalog_order": "its catalog comes first",
    "largest_resolution": "the most pixels",
    "largest_file": "the largest file",
    "first_seen": "fetched first",
    "id": "the first by id of equal ones",
}
_REDUNDANT = {
    IS_LINK: "a link; {canonical} is a file",
    PROTECTED: "{canonical} is protected",
    "catalog_order": "the catalog of {canonical} comes first",
    "largest_resolution": "{canonical} has more pixels: {other}, not {own}",
    "largest_file": "{canonical} is the larger file: {other} bytes, not {own}",
    "first_seen": "{canonical} was fetched earlier",
    "id": "{canonical} is equal and comes first by id",
}


def _reasons(
    store: Store, rows: pl.DataFrame, properties: Mapping[str, Sequence[str]]
) -> pl.Series:
    """Why each row's item is kept or not: by the first thing in which it and another differ."""
    keys = {
        name: RowBlocks.of(rows.filter(pl.col("catalog") == name).select("id", "sha256"))
        for name in properties["catalogs"]
    }
    ranks = item_ranks(store, keys, properties["keep"], separator=SEPARATOR)
    deciding = [IS_LINK, PROTECTED, *properties["canonical"]]
    ranked = rows.select(
        "group_id",
        "is_canonical",
        "keep",
        pl.col("id").alias("canonical"),
        (pl.col("catalog") + SEPARATOR + pl.col("id")).alias("id"),
    ).join(ranks.select("id", *deciding), on="id", how="left", maintain_order="left")
    firsts = ranked.filter("is_canonical").select("group_id", "canonical", *deciding)
    both = ranked.drop("canonical").join(
        firsts, on="group_id", how="left", maintain_order="left", suffix="_of_canonical"
    )
    differing = pl.coalesce(
        pl.when(pl.col(name).ne_missing(pl.col(f"{name}_of_canonical"))).then(number)
        for number, name in enumerate(deciding)
    ).fill_null(len(deciding))
    is_other = ~pl.col("is_canonical")
    # What sets the canonical item apart from the one that is next to it.
    last = differing.filter(is_other).max().over("group_id")
    decided = both.with_columns(pl.when(is_other).then(differing).otherwise(last).alias("by"))
    names = [*deciding, "id"]
    return pl.Series("reason", [_reason(row, names[row["by"]]) for row in decided.to_dicts()])


def _reason(row: Mapping[str, Any], by: str) -> str:
    if row["keep"]:
        return f"kept: {_KEPT[PROTECTED if row[PROTECTED] else by]}"
    own, other = row.get(by), row.get(f"{by}_of_canonical")
    amounts = {"own": _amount(own), "other": _amount(other)}
    return _REDUNDANT[by].format(canonical=row["canonical"], **amounts)


def _amount(rank: Any) -> str:
    return f"{-rank:,}" if isinstance(rank, int) else "unknown"
