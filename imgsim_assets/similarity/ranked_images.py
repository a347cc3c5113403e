"""The images of catalogs in the order in which their items become canonical."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.similarity.canonical import PROTECTED, canonical_order, item_ranks
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.items import Items
from imgsim_assets.storage.row_blocks import RowBlocks, begins_item
from imgsim_assets.storage.sorted_rows import sorted_rows
from imgsim_assets.storage.store import Store

# The rank of an item as text of so many digits, which sorts as the numbers do.
_RANK = "rank"
_DIGITS = 10


def ranked_images(
    store: Store,
    catalogs: Mapping[str, Items],
    keep: Sequence[str],
    canonical: Sequence[str],
    separator: str | None,
) -> RowBlocks:
    """All images of catalogs, the recorded ones, by the rank of their items and their numbers.

    Args:
        store: holds the ledgers of the catalogs.
        catalogs: the images of each catalog, in the order of the catalogs.
        keep: folders and catalogs whose items are protected.
        canonical: the rules by which items are ranked.
        separator: between the catalog and the id, in the ids of the result; None leaves ids.

    Returns:
        The columns of `Items.recorded`, and `protected`.
    """
    images = {name: items.recorded for name, items in catalogs.items()}
    ranks = item_ranks(store, images, keep, separator=separator)
    rank = np.empty(ranks.height, dtype=np.int64)
    rank[canonical_order(ranks, canonical)] = np.arange(ranks.height)
    is_protected = ranks[PROTECTED].to_numpy()
    del ranks
    empty = pl.concat([rows.read(0, 0) for rows in images.values()], how="diagonal")
    empty = empty.with_columns(
        pl.lit(None, pl.Boolean).alias(PROTECTED), pl.lit(None, pl.String).alias(_RANK)
    )
    parts = (
        pl.concat([empty, part], how="diagonal")
        for part in _parts(images, rank, is_protected, separator)
    )
    in_order = sorted_rows(parts, empty.schema, [_RANK, "image"])
    return in_order.select([name for name in empty.columns if name != _RANK])


def _parts(
    images: Mapping[str, RowBlocks],
    rank: Indices,
    is_protected: NDArray[np.bool_],
    separator: str | None,
) -> Iterator[pl.DataFrame]:
    """The images of all catalogs, with what is known of their items (n,), by catalog and id."""
    item = -1
    for name, rows in images.items():
        prefix = f"{name}{separator}" if separator else ""
        last: str | None = None
        for _, block in rows.blocks():
            if not block.height:
                continue
            items = item + np.cumsum(begins_item(block["id"], last))
            item, last = int(items[-1]), block["id"][-1]
            yield block.with_columns(
                (pl.lit(prefix) + pl.col("id")).alias("id"),
                pl.Series(PROTECTED, is_protected[items]),
                pl.Series(_RANK, rank[items]).cast(pl.String).str.zfill(_DIGITS),
            )
