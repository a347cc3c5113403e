"""The right items nearest to some left items, whether they match or not."""

from __future__ import annotations

import polars as pl

from imgsim_assets.similarity.item_pairs import SCHEMA, best_of_each, item_pairs
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import MIN_COSINE, JoinSpec
from imgsim_assets.similarity.mean_best import mean_best
from imgsim_assets.similarity.neighbor_lists import neighbor_lists
from imgsim_assets.similarity.settings import Compare

# Of the items with the best images, so many are scored by the mean over their images.
_MIN_SCORED = 32


def nearest_items(
    left: Items, right: Items, k: int, compare: Compare = "any", *, exclude_self: bool = False
) -> pl.DataFrame:
    """The k nearest right items of each left item, by the similarity of a match table.

    With `compare: mean_best`, the mean is computed for the 32 items (or k) with the best images.

    Args:
        left: the images of the left items that are compared.
        right: the images of the right items that are compared.
        k: how many items.
        compare: as of the match table.
        exclude_self: whether an item is not a neighbor of itself.

    Returns:
        Pairs of items as of `item_pairs.SCHEMA`, by left_id, falling similarity and right_id.
    """
    if not len(left) or not len(right):
        return pl.DataFrame(schema=SCHEMA)
    scored = (max(k, _MIN_SCORED) if compare == "mean_best" else k) + exclude_self
    lists = neighbor_lists(left, right, JoinSpec(MIN_COSINE, scored))
    pairs = item_pairs(lists, left, right, scored)
    if exclude_self:
        pairs = pairs.filter(pl.col("left_id") != pl.col("right_id"))
    if compare == "mean_best":
        pairs = mean_best(pairs, left, right, MIN_COSINE)
    return best_of_each(pairs, k)
