"""The best candidates of items without a match, which lie below the threshold."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.items import VALUE, Items

# Products that are computed at most, so that a chart costs little beside the join.
_MAX_PRODUCTS = 20_000_000
_SCHEMA = {"left_id": pl.String, "right_id": pl.String, "similarity": pl.Float64}


def sampled_keys(keys: pl.DataFrame, count: int) -> pl.DataFrame:
    """The rows of some items, always the same ones: those whose hashes of ids are the least."""
    ids = keys["id"].unique().sort()
    if len(ids) <= count:
        return keys
    hashes = [hashlib.blake2b(item.encode(), digest_size=8).hexdigest() for item in ids.to_list()]
    chosen = ids.gather(pl.Series(hashes).arg_sort()[:count])
    return keys.filter(pl.col("id").is_in(chosen.implode()))


def best_candidates(
    left: Items,
    right: Items,
    matched: pl.Series,
    *,
    exclude_self: bool = False,
    max_products: int = _MAX_PRODUCTS,
) -> pl.DataFrame:
    """The most similar right item of left items that have no match.

    Args:
        left: the left rows.
        right: the right rows.
        matched: ids of left items with a match.
        exclude_self: whether an item is no candidate of itself.
        max_products: how many products are computed at most.

    Returns:
        left_id, right_id and similarity (float32 products) of the best images, of a sample of the
        left rows, most similar first.
    """
    unmatched = left.where(~left.keys["id"].is_in(matched.unique().implode()).to_numpy())
    if not len(unmatched) or not len(right):
        return pl.DataFrame(schema=_SCHEMA)
    size = min(len(unmatched), max(1, max_products // len(right)))
    chosen = np.sort(np.random.default_rng(0).permutation(len(unmatched))[:size])
    step = max(1, _MAX_PRODUCTS // len(right))
    parts = [
        _best_of_rows(unmatched, chosen[start : start + step], right, exclude_self=exclude_self)
        for start in range(0, size, step)
    ]
    finite = pl.concat(parts).filter(pl.col("similarity").is_finite())
    best_first = finite.sort(["similarity", "left_id"], descending=[True, False])
    return best_first.unique("left_id", keep="first", maintain_order=True)


def _best_of_rows(
    unmatched: Items, chosen: Indices, right: Items, *, exclude_self: bool
) -> pl.DataFrame:
    """The best right item of each chosen row (n,)."""
    keys_of_left = unmatched.images.gather(chosen)
    ids = keys_of_left["id"]
    queries = unmatched.blocks.rows(chosen)
    best = np.zeros(len(chosen), dtype=np.int64)
    greatest = np.full(len(chosen), -np.inf, dtype=np.float32)
    for start, block in right.blocks.blocks():
        products = queries @ block.T
        keys = right.images.read(start, start + len(block))
        if exclude_self:
            products[ids.to_numpy()[:, None] == keys["id"].to_numpy()[None, :]] = -np.inf
        if VALUE in keys_of_left.columns:
            values = keys_of_left[VALUE].to_numpy()
            products[values[:, None] != keys[VALUE].to_numpy()[None, :]] = -np.inf
        of_block = products.argmax(axis=1)
        found = products[np.arange(len(chosen)), of_block]
        better = found > greatest
        best[better], greatest[better] = start + of_block[better], found[better]
    return pl.DataFrame(
        {
            "left_id": ids,
            "right_id": right.images.gather(best, ["id"])["id"],
            "similarity": greatest.astype(np.float64),
        },
        schema=_SCHEMA,
    )
