"""Everything that the store knows about one item: images, results that name it, their runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from imgsim_assets.download.ledger.table import with_all_columns
from imgsim_assets.encoders.table import SCHEMA as EMBEDDINGS_SCHEMA
from imgsim_assets.storage.shards import Shard, shard_index

if TYPE_CHECKING:
    from imgsim_assets.service.view import View

_SIDES = ("left", "right")
# Matches of one item that a page shows.
_MAX_MATCHES = 100


class ItemMatch(NamedTuple):
    """A match of an item: the match table, the other side and its catalog, and the row."""

    table: str
    other: str
    catalog: str
    row: dict[str, Any]


def item_images(view: View, name: str, item_id: str) -> pl.DataFrame:
    """The ledger rows of an item's images, with the outcome of their embedding.

    Returns:
        The columns of the ledger, sorted by image, then `embedding` and `embedding_detail`:
        status and detail in `<name>/embeddings`, null where the image has not been embedded.
    """
    ledger = with_all_columns(_rows_of_item(view, f"{name}/images", item_id))
    embedded = pl.concat(
        [
            pl.DataFrame(schema=EMBEDDINGS_SCHEMA),
            _rows_of_item(view, f"{name}/embeddings", item_id),
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


def graph_neighbors(view: View, name: str, item_id: str) -> pl.DataFrame | None:
    """The edges from an item in the similarity graph, by rank; None without a graph."""
    table = f"{name}/similarity_graph"
    if table not in view.commits:
        return None
    return _scan_rows(view, table, pl.col("src_id") == item_id)


def item_matches(view: View, name: str, item_id: str) -> list[ItemMatch]:
    """The matches of an item in every match table of its catalog, by table and rank."""
    tables = (f"matches/{table}" for table in view.match_tables)
    return [match for table in tables for match in _matches_in(view, table, name, item_id)]


def _matches_in(view: View, table: str, name: str, item_id: str) -> Iterator[ItemMatch]:
    properties = view.commit(table).properties
    is_self_match = properties["left"] == properties["right"]
    seen: set[str] = set()
    for side, other in (_SIDES, _SIDES[::-1]):
        if properties[side] != name:
            continue
        rows = _scan_rows(view, table, pl.col(f"{side}_id") == item_id)
        for row in rows.head(_MAX_MATCHES).to_dicts():
            # A list matched with itself may have a pair in both directions.
            if is_self_match and row[f"{other}_id"] in seen:
                continue
            seen.add(row[f"{other}_id"])
            yield ItemMatch(table, other, str(properties[other]), row)


def _scan_rows(view: View, table: str, where: pl.Expr) -> pl.DataFrame:
    """Rows by rank; parts of files that cannot have one are skipped."""
    if not view.commit(table).files_with_role():
        return pl.DataFrame()
    return view.scan(table).filter(where).sort("rank").collect()


def _rows_of_item(view: View, name: str, item_id: str) -> pl.DataFrame:
    """The rows of one item, of which only the shard is read."""
    commit = view.commits.get(name)
    if commit is None:
        return pl.DataFrame()
    counts = {file.shard_count for file in commit.files_with_role() if file.shard_count}
    count = max(counts, default=1)
    shard = Shard(shard_index(item_id, count), count)
    rows = view.store.table(name, key=commit.key).read(commit, shard=shard)
    return rows.filter(pl.col("id") == item_id) if rows.width else rows
