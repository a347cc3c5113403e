"""The best candidates of items without a match, which lie below the threshold."""

from __future__ import annotations

import numpy as np
import polars as pl

from imgsim_assets.similarity.items import VALUE, Items

# Products that are computed at most, so that a chart costs little beside the join.
_MAX_PRODUCTS = 20_000_000


def best_candidates(
    left: Items, right: Items, matched: pl.Series, *, exclude_self: bool = False
) -> pl.DataFrame:
    """The most similar right item of left items that have no match.

    Args:
        left: the left rows.
        right: the right rows.
        matched: ids of left items with a match.
        exclude_self: whether an item is no candidate of itself.

    Returns:
        left_id, right_id and similarity (float32 products) of the best images, of a sample of the
        left rows, most similar first.
    """
    schema = {"left_id": pl.String, "right_id": pl.String, "similarity": pl.Float64}
    unmatched = left.where(~left.keys["id"].is_in(matched.unique().implode()).to_numpy())
    if not len(unmatched) or not len(right):
        return pl.DataFrame(schema=schema)
    size = min(len(unmatched), max(1, _MAX_PRODUCTS // len(right)))
    chosen = np.sort(np.random.default_rng(0).permutation(len(unmatched))[:size])
    ids = unmatched.keys["id"].gather(chosen)
    products = unmatched.vectors[chosen] @ right.vectors.T
    if exclude_self:
        products[ids.to_numpy()[:, None] == right.keys["id"].to_numpy()[None, :]] = -np.inf
    if VALUE in left.keys.columns:
        values = unmatched.keys[VALUE].gather(chosen).to_numpy()
        products[values[:, None] != right.keys[VALUE].to_numpy()[None, :]] = -np.inf
    best = products.argmax(axis=1)
    frame = pl.DataFrame(
        {
            "left_id": ids,
            "right_id": right.keys["id"].gather(best),
            "similarity": products[np.arange(size), best].astype(np.float64),
        },
        schema=schema,
    )
    finite = frame.filter(pl.col("similarity").is_finite())
    best_first = finite.sort(["similarity", "left_id"], descending=[True, False])
    return best_first.unique("left_id", keep="first", maintain_order=True)
