"""Everything that the store knows about one item: images, results that name it, their runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from imgsim_assets.download.ledger.table import ledger_table, with_all_columns
from imgsim_assets.encoders.table import SCHEMA as EMBEDDINGS_SCHEMA
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.similarity.graph import graph_table
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.scan import scan_table
from imgsim_assets.storage.shards import Shard, shard_index
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

_SIDES = ("left", "right")
# Matches of one item that a page shows.
_MAX_MATCHES = 100


class ItemMatch(NamedTuple):
    """A match of an item: the match table, the other side and its catalog, and the row."""

    table: str
    other: str
    catalog: str
    row: dict[str, Any]


def item_images(store: Store, name: str, item_id: str) -> pl.DataFrame:
    """The ledger rows of an item's images, with the outcome of their embedding.

    Returns:
        The columns of the ledger, sorted by image, then `embedding` and `embedding_detail`:
        status and detail in `<name>/embeddings`, null where the image has not been embedded.
    """
    ledger = with_all_columns(_rows_of_item(ledger_table(store, name), item_id))
    embedded = pl.concat(
        [
            pl.DataFrame(schema=EMBEDDINGS_SCHEMA),
            _rows_of_item(embeddings_table(store, name), item_id),
        ],
        how="diagonal_relaxed",
    ).select(
        "id",
        pl.col("image").fill_null(0),
        "sha256",
        pl.col("status").alias("embedding"),
        pl.col("detail").alias("embedding_detail"),
    )
    return ledger.join(embedded, on=["id", "image", "sha256"], how="left").sort("image")


def graph_neighbors(store: Store, name: str, item_id: str) -> pl.DataFrame | None:
    """The edges from an item in the similarity graph, by rank; None without a graph."""
    table = graph_table(store, name)
    commit = table.latest()
    if commit is None:
        return None
    return _scan_rows(table, commit, pl.col("src_id") == item_id).sort("rank")


def item_matches(store: Store, name: str, item_id: str) -> list[ItemMatch]:
    """The matches of an item in every match table of its catalog, by table and similarity."""
    return [
        match
        for table_name in store.table_names()
        if table_name.startswith("matches/")
        for match in _matches_in(store.table(table_name), name, item_id)
    ]


def _matches_in(table: Table, name: str, item_id: str) -> Iterator[ItemMatch]:
    commit = table.latest()
    if commit is None:
        return
    seen: set[str] = set()
    for side, other in (_SIDES, _SIDES[::-1]):
        if commit.properties.get(side) != name:
            continue
        rows = _scan_rows(table, commit, pl.col(f"{side}_id") == item_id)
        for row in rows.sort("rank").head(_MAX_MATCHES).to_dicts():
            # A list matched with itself may have a pair in both directions.
            if commit.properties["left"] == commit.properties["right"]:
                if row[f"{other}_id"] in seen:
                    continue
                seen.add(row[f"{other}_id"])
            yield ItemMatch(table.name, other, str(commit.properties[other]), row)


def _scan_rows(table: Table, commit: Commit, where: pl.Expr) -> pl.DataFrame:
    """The rows that satisfy a condition; parts of files that cannot have one are skipped."""
    if not commit.files_with_role():
        return pl.DataFrame(schema={"rank": pl.Int32})
    return scan_table(table, commit).filter(where).collect()


def _rows_of_item(table: Table, item_id: str) -> pl.DataFrame:
    """The rows of one item, of which only the shard is read."""
    commit = table.latest()
    if commit is None:
        return pl.DataFrame()
    counts = {file.shard_count for file in commit.files_with_role() if file.shard_count}
    count = max(counts, default=1)
    rows = table.read(commit, shard=Shard(shard_index(item_id, count), count))
    return rows.filter(pl.col("id") == item_id) if rows.width else rows
