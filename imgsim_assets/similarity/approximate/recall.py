"""The recall of neighbor lists: the fraction of the exact pairs of sampled items that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from imgsim_assets.reviews.sample import clopper_pearson
from imgsim_assets.similarity.items import Items

# What is told instead of a recall where the exact result has no pair of the sampled items.
NOT_MEASURED = "not measured"
_PAIR = ["left_id", "right_id"]
_SIDES = ("left", "right")
_SWAPPED = {"left_id": "right_id", "right_id": "left_id"}


@dataclass(frozen=True)
class Recall:
    """Of `pairs` that an exact join finds for `rows` sampled images, so many were `found`."""

    rows: int
    pairs: int
    found: int

    @property
    def value(self) -> float | None:
        """The recall; None where there is nothing to find, and so nothing is measured."""
        return self.found / self.pairs if self.pairs else None

    def reaches(self, min_recall: float) -> bool:
        """Whether the pairs do not contradict a recall: by the upper end of its 95 % interval."""
        return not self.pairs or clopper_pearson(self.found, self.pairs)[1] >= min_recall


@dataclass(frozen=True)
class RecallMeter:
    """The exact pairs of sampled items, which are looked up in neighbor lists, block by block.

    Attributes:
        rows: how many images were sampled.
        exact: left_id, right_id and similarity of their pairs.
        left: the left rows of these items: the key of each (`left_id`), and its item (`item`).
        right: the same of the right rows.
        either_way: whether a pair also counts where only its right item has it in its lists, for
            joins of one set with itself. Otherwise it must be found with its similarity, which is
            that of its best images.
    """

    rows: int
    exact: pl.DataFrame
    left: pl.DataFrame
    right: pl.DataFrame
    either_way: bool

    @classmethod
    def of(
        cls, exact: pl.DataFrame, left: Items, right: Items, rows: int, *, either_way: bool
    ) -> RecallMeter:
        """The meter of exact pairs of items of two sides."""
        exact = exact.select(*_PAIR, "similarity")
        ids = [exact[column] for column in _PAIR]
        if either_way:
            ids = [pl.concat(ids)] * 2
        of_left, of_right = (
            _rows_of(items, side, wanted)
            for side, items, wanted in zip(_SIDES, (left, right), ids, strict=True)
        )
        return cls(rows, exact, of_left, of_right, either_way)

    def found_in(self, lists: pl.DataFrame) -> pl.DataFrame:
        """Those of the pairs that some of the lists hold."""
        rows = _of_ids(lists, self.left["left_id"]).join(self.left, on="left_id")
        rows = rows.join(self.right, on="right_id")
        pairs = rows.group_by(left_id="left_item", right_id="right_item").agg(
            pl.col("similarity").max()
        )
        if self.either_way:
            both = pl.concat([pairs.select(_PAIR), pairs.rename(_SWAPPED).select(_PAIR)])
            return self.exact.join(both, on=_PAIR, how="semi")
        return self.exact.join(pairs, on=[*_PAIR, "similarity"], how="semi")

    def recall(self, found: Sequence[pl.DataFrame]) -> Recall:
        """The recall of all lists, of what was found in each of their parts."""
        every = pl.concat([self.exact.clear(), *found]).unique()
        return Recall(self.rows, self.exact.height, every.height)


def _of_ids(lists: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """The lists of some ids, of lists and ids that are sorted; only these are looked at."""
    column = lists["left_id"]
    first, last = (column.search_sorted(ids, side).to_numpy() for side in ("left", "right"))
    counts = last - first
    begins = np.cumsum(counts) - counts
    rows = np.arange(int(counts.sum())) + np.repeat(first - begins, counts)
    return lists.select(pl.all().gather(rows))


def _rows_of(items: Items, side: str, wanted: pl.Series) -> pl.DataFrame:
    """The keys of the rows of wanted items, and their items."""
    rows = [
        start + np.flatnonzero(images["id"].is_in(wanted.implode()))
        for start, images in items.images.blocks(["id"])
    ]
    numbers = np.concatenate([np.empty(0, np.int64), *rows])
    return pl.DataFrame(
        {
            f"{side}_id": items.row_blocks.gather(numbers, ["id"])["id"],
            f"{side}_item": items.images.gather(numbers, ["id"])["id"],
        }
    )
