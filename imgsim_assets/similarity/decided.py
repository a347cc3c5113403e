"""Pairs of items after people's decisions, which come before any ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.similarity.item_pairs import (
    SCHEMA,
    best_of_each,
    in_order,
    item_pairs,
    pairs_schema,
    swapped,
)
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_spec import MIN_COSINE
from imgsim_assets.similarity.mean_best import mean_best
from imgsim_assets.similarity.vector_blocks import cosines
from imgsim_assets.storage.id_blocks import IdBlock

_PAIR = ["left_id", "right_id"]
_IS_DECIDED = "is_decided"


@dataclass(frozen=True)
class DecidedPairs:
    """The decisions about the pairs of two catalogs, applied to pairs that a join has found.

    Attributes:
        different: left_id and right_id of pairs that are no match.
        matches: the pairs that are matches, as of `item_pairs`, also those below a threshold.
    """

    different: pl.DataFrame
    matches: pl.DataFrame

    @classmethod
    def of(cls, decisions: Decisions, left: Items, right: Items, compare: str) -> DecidedPairs:
        """The decisions about items of which at least one image is compared."""
        matches = score_pairs(decisions.matches, left, right)
        if compare == "mean_best":
            matches = mean_best(matches, left, right, MIN_COSINE)
        return cls(decisions.different, matches)

    def swapped(self) -> DecidedPairs:
        """The same with left and right exchanged."""
        return DecidedPairs(swapped(self.different), in_order(swapped(self.matches)))

    def of_block(self, block: IdBlock) -> DecidedPairs:
        """The decisions about the left items of a block."""
        different, matches = (
            pairs.filter(pl.Series(block.holds(pairs["left_id"])))
            for pairs in (self.different, self.matches)
        )
        return DecidedPairs(different, matches)

    @property
    def is_empty(self) -> bool:
        """Whether no decision changes a pair."""
        return not self.different.height and not self.matches.height

    @property
    def max_different(self) -> int:
        """How many different pairs an item has at most: so many more a join must find."""
        counts = [self.different[name].value_counts()["count"] for name in _PAIR]
        return max((int(each) for count in counts for each in count), default=0)

    def applied(self, pairs: pl.DataFrame, k: int | None = None) -> pl.DataFrame:
        """The pairs without different ones and with all matches.

        Args:
            pairs: pairs of items in order; with k, at least the first k + max_different of each
                left item.
            k: how many a left item has; its decided matches come first, and are never cut.

        Returns:
            The pairs in order.
        """
        if self.is_empty:
            return best_of_each(pairs, k)
        found = pairs.join(self.different, on=_PAIR, how="anti")
        found = found.join(self.matches, on=_PAIR, how="anti")
        both = pl.concat(
            [
                found.with_columns(pl.lit(value=False).alias(_IS_DECIDED)),
                self.matches.with_columns(pl.lit(value=True).alias(_IS_DECIDED)),
            ]
        )
        if k is not None:
            ordered = both.sort(
                ["left_id", _IS_DECIDED, "similarity", "right_id"],
                descending=[False, True, True, False],
            )
            position = pl.int_range(pl.len()).over("left_id")
            both = ordered.filter((position < k) | pl.col(_IS_DECIDED))
        return in_order(both.drop(_IS_DECIDED))


NOTHING_DECIDED = DecidedPairs(
    pl.DataFrame(schema=dict.fromkeys(_PAIR, pl.String)), pl.DataFrame(schema=SCHEMA)
)


def score_pairs(pairs: pl.DataFrame, left: Items, right: Items) -> pl.DataFrame:
    """The given pairs of items with their best images, without items that have no row."""
    schema = pairs_schema(left, right)
    if not pairs.height:
        return pl.DataFrame(schema=schema)
    sides = []
    for side, items in (("left", left), ("right", right)):
        rows = items.keys.select(pl.col("id").alias(f"{side}_id")).with_row_index(f"{side}_row")
        sides.append(rows)
    found = pairs.join(sides[0], on="left_id").join(sides[1], on="right_id")
    if not found.height:
        return pl.DataFrame(schema=schema)
    i, j = (found[f"{side}_row"].cast(pl.Int64).to_numpy() for side in ("left", "right"))
    scores = cosines(left.blocks, right.blocks, i, j)
    order = np.lexsort((j, -scores, i))
    rows_of_pairs = pl.DataFrame(
        {
            "left_id": left.rows["id"].gather(i[order]),
            "right_id": right.rows["id"].gather(j[order]),
            "similarity": scores[order],
        }
    )
    return item_pairs(rows_of_pairs, left, right)
