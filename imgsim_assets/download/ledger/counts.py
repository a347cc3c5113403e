"""How many images and items a ledger has, from counts that its files record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import polars as pl

from imgsim_assets.download.ledger.table import empty_ledger
from imgsim_assets.download.status import OK
from imgsim_assets.storage.commit import Commit, is_compacted
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.table import Table

# File metadata: the counts of the rows of a whole shard.
COUNTS: Final = "counts"


def count_images(table: Table, commit: Commit, shards: Iterable[Shard]) -> dict[str, int]:
    """How many images, fetched images (`ok`), items and items with one (`usable_items`) there are.

    Reads only the rows of shards whose file does not record its counts.

    Args:
        table: the ledger.
        commit: a commit of it.
        shards: all of its shards.
    """
    total = dict.fromkeys(("images", "ok", "items", "usable_items"), 0)
    for shard in shards:
        counts = _recorded_counts(commit, shard)
        if counts is None:
            rows = table.read(commit, shard=shard, columns=["id", "status"])
            counts = _counts_of(rows if rows.width else empty_ledger())
        for name in total:
            total[name] += counts[name]
    return total


def _recorded_counts(commit: Commit, shard: Shard) -> Mapping[str, int] | None:
    if not is_compacted(commit, shard):
        return None
    counts: Mapping[str, int] | None = commit.files_of_shard(shard)[0].metadata.get(COUNTS)
    return counts


def _counts_of(rows: pl.DataFrame) -> dict[str, int]:
    fetched = rows.filter(pl.col("status") == OK)
    named = {"items": rows["id"].n_unique(), "usable_items": fetched["id"].n_unique()}
    return {"images": rows.height, "ok": fetched.height, **named}
