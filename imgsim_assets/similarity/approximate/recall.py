"""The recall of neighbor lists: the fraction of the exact pairs of sampled rows that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from imgsim_assets.reviews.sample import clopper_pearson

_PAIR = ["left_id", "right_id"]
_SWAPPED = {"left_id": "right_id", "right_id": "left_id"}


@dataclass(frozen=True)
class Recall:
    """Of `pairs` that an exact join finds for `rows` sampled rows, so many were `found`."""

    rows: int
    pairs: int
    found: int

    @property
    def value(self) -> float:
        """The recall; 1 where there is nothing to find."""
        return self.found / self.pairs if self.pairs else 1.0

    def reaches(self, min_recall: float) -> bool:
        """Whether the pairs do not contradict a recall: by the upper end of its 95 % interval."""
        return not self.pairs or clopper_pearson(self.found, self.pairs)[1] >= min_recall


@dataclass(frozen=True)
class RecallMeter:
    """The exact pairs of sampled rows, which are looked up in neighbor lists, block by block.

    Attributes:
        rows: how many rows were sampled.
        exact: left_id and right_id of their pairs.
        either_way: whether a pair also counts where only its right row has it in its list, for
            joins of one set with itself.
    """

    rows: int
    exact: pl.DataFrame
    either_way: bool

    def found_in(self, lists: pl.DataFrame) -> pl.DataFrame:
        """Those of the pairs that some of the lists hold."""
        pairs = lists.select(_PAIR)
        if self.either_way:
            pairs = pl.concat([pairs, pairs.rename(_SWAPPED).select(_PAIR)])
        return self.exact.join(pairs, on=_PAIR, how="semi")

    def recall(self, found: Sequence[pl.DataFrame]) -> Recall:
        """The recall of all lists, of what was found in each of their parts."""
        every = pl.concat([self.exact.clear(), *found]).unique()
        return Recall(self.rows, self.exact.height, every.height)
