"""The modes of match tables: which pairs of items are matches."""

from __future__ import annotations

import numpy as np
import polars as pl

from imgsim_assets.similarity.decided import DecidedPairs
from imgsim_assets.similarity.item_pairs import in_order, swapped
from imgsim_assets.similarity.settings import MatchSettings

# A cost that is positive for every cosine, since scipy treats a stored zero as no edge.
_UNMATCHED_COST = 2.0


def max_matches(settings: MatchSettings) -> int | None:
    """How many matches a left item has at most; None for no limit."""
    limits = {"all": None, "best": 1, "top_k": settings.k, "mutual": 1, "one_to_one": None}
    return limits[settings.mode]


def of_mode(settings: MatchSettings, pairs: pl.DataFrame, decided: DecidedPairs) -> pl.DataFrame:
    """Of pairs of items, in order, those that the mode keeps, after people's decisions.

    The modes mutual and one_to_one need the pairs of all items at once, others those of some.
    """
    if settings.mode == "mutual":
        return mutual_pairs(pairs, in_order(swapped(pairs)), decided)
    if settings.mode == "one_to_one":
        return _one_to_one(decided.applied(pairs), decided.matches)
    return decided.applied(pairs, max_matches(settings))


def mutual_pairs(
    of_left: pl.DataFrame, of_right: pl.DataFrame, decided: DecidedPairs
) -> pl.DataFrame:
    """The pairs whose members are each other's best, from those of the left and right items."""
    return best_of_both(decided.applied(of_left, k=1), decided.swapped().applied(of_right, k=1))


def best_of_both(of_left: pl.DataFrame, of_right: pl.DataFrame) -> pl.DataFrame:
    """Of the best pairs of left items those that are the best of their right items, too."""
    return of_left.join(
        of_right, left_on=["left_id", "right_id"], right_on=["right_id", "left_id"], how="semi"
    )


def _one_to_one(pairs: pl.DataFrame, decided: pl.DataFrame) -> pl.DataFrame:
    """The decided matches, and the best matching of the items that are in none."""
    free = pairs.join(decided, on="left_id", how="anti").join(decided, on="right_id", how="anti")
    return in_order(pl.concat([decided, one_to_one(free)], how="diagonal"))


def one_to_one(pairs: pl.DataFrame) -> pl.DataFrame:
    """The matching of greatest total similarity: no item is in more than one pair.

    By scipy's sparse Jonker and Volgenant assignment, where every left item may also be assigned
    to a dummy column that stands for no partner. Pairs of similarity 0 or less never add to the
    total. Pairs are sorted by id first, so that their order does not decide among ties.

    Args:
        pairs: left_id, right_id, similarity.

    Returns:
        The chosen pairs, sorted by left_id.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    useful = pairs.filter(pl.col("similarity") > 0).sort("left_id", "right_id")
    if not useful.height:
        return pairs.clear()
    left, right = (useful[side].unique().sort() for side in ("left_id", "right_id"))
    i, j = left.search_sorted(useful["left_id"]), right.search_sorted(useful["right_id"])
    unmatched = np.arange(len(left))
    rows = np.concatenate([i.to_numpy(), unmatched])
    columns = np.concatenate([j.to_numpy(), unmatched + len(right)])
    costs = np.concatenate(
        [_UNMATCHED_COST - useful["similarity"].to_numpy(), np.full(len(left), _UNMATCHED_COST)]
    )
    shape = (len(left), len(right) + len(left))
    matched_left, matched_right = min_weight_full_bipartite_matching(
        csr_array((costs, (rows, columns)), shape=shape)
    )
    is_pair = matched_right < len(right)
    chosen = pl.DataFrame(
        {
            "left_id": left.gather(matched_left[is_pair]),
            "right_id": right.gather(matched_right[is_pair]),
        }
    )
    return useful.join(chosen, on=["left_id", "right_id"], how="semi").sort("left_id")
