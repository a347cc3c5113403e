"""Pairs of which no item has more than one, with the greatest total similarity."""

from __future__ import annotations

import numpy as np
import polars as pl

# A cost that is positive for every cosine: scipy takes a stored zero for an absent edge.
_UNMATCHED = 2.0


def one_to_one(pairs: pl.DataFrame) -> pl.DataFrame:
    """Of pairs (left_id, right_id, similarity), the matching of greatest total similarity.

    It need not cover every item; pairs of similarity 0 or less never add to the total and are
    left out. The same pairs give the same matching in whatever order they come: they are sorted
    by id first, and where several matchings are equally good the algorithm's first is taken.
    By scipy's sparse Jonker and Volgenant assignment; every left item may also be assigned to
    a place of its own that stands for no partner.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    useful = pairs.filter(pl.col("similarity") > 0).sort("left_id", "right_id")
    if not useful.height:
        return pairs.clear()
    left, right = (useful[side].unique().sort() for side in ("left_id", "right_id"))
    i, j = left.search_sorted(useful["left_id"]), right.search_sorted(useful["right_id"])
    alone = np.arange(len(left))
    rows = np.concatenate([i.to_numpy(), alone])
    columns = np.concatenate([j.to_numpy(), alone + len(right)])
    costs = np.concatenate(
        [_UNMATCHED - useful["similarity"].to_numpy(), np.full(len(left), _UNMATCHED)]
    )
    shape = (len(left), len(right) + len(left))
    matched_left, matched_right = min_weight_full_bipartite_matching(
        csr_array((costs, (rows, columns)), shape=shape)
    )
    paired = matched_right < len(right)
    chosen = pl.DataFrame(
        {
            "left_id": left.gather(matched_left[paired]),
            "right_id": right.gather(matched_right[paired]),
        }
    )
    return useful.join(chosen, on=["left_id", "right_id"], how="semi").sort("left_id")
