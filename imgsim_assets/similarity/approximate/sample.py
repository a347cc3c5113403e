"""Exact neighbors of a sample of left rows, to choose the probes by and to measure the recall on.

Rows are drawn by their sha256, so that a sample hardly changes when rows come and go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from imgsim_assets.similarity.block_join import join
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import MIN_COSINE, JoinSpec

# Rows that the recall is measured on, and further ones that the probes are chosen by.
_MEASURED_ROWS = 1000
_CHOOSING_ROWS = 2000
# Where fewer pairs reach a threshold, the most similar ones below it count as well.
_MIN_PAIRS = 1000
_NEIGHBORS_BELOW = 10


@dataclass(frozen=True)
class ExactPairs:
    """The pairs that an exact join finds for sampled left rows.

    Attributes:
        rows: how many left rows were sampled.
        i: (p,) numbers of left rows.
        j: (p,) numbers of right rows.
    """

    rows: int
    i: Indices
    j: Indices

    def keys(self, left: Items, right: Items) -> pl.DataFrame:
        """left_id and right_id of the pairs."""
        return pl.DataFrame(
            {
                "left_id": left.row_blocks.gather(self.i, ["id"])["id"],
                "right_id": right.row_blocks.gather(self.j, ["id"])["id"],
            }
        )


def pairs_to_measure(
    left: Items, right: Items, spec: JoinSpec, one_catalog: bool = False
) -> ExactPairs:
    """The pairs of rows that the recall is measured on.

    Args:
        left: the rows that are sampled.
        right: the rows that are searched.
        spec: which pairs an exact join finds.
        one_catalog: both are items of one catalog. Pairs of an item with itself, which are always
            found, do not count.
    """
    rows = _sampled_rows(left, 0, _MEASURED_ROWS)
    i, j, _ = _exact_pairs(left, right, rows, spec, one_catalog)
    return ExactPairs(len(rows), i, j)


def pairs_to_choose_by(
    left: Items, right: Items, spec: JoinSpec, one_catalog: bool = False
) -> ExactPairs:
    """The pairs of other rows, by which the probes are chosen; enough of them, if there are.

    The arguments are those of `pairs_to_measure`.
    """
    rows = _sampled_rows(left, _MEASURED_ROWS, _CHOOSING_ROWS)
    i, j, _ = _exact_pairs(left, right, rows, spec, one_catalog)
    if len(i) < _MIN_PAIRS and spec.threshold > MIN_COSINE:
        nearest = JoinSpec(MIN_COSINE, spec.k or _NEIGHBORS_BELOW, spec.exclude_self)
        i, j, cosines = _exact_pairs(left, right, rows, nearest, one_catalog)
        order = np.argsort(-cosines, kind="stable")[:_MIN_PAIRS]
        i, j = i[order], j[order]
    return ExactPairs(len(rows), i, j)


def _sampled_rows(items: Items, skip: int, count: int) -> Indices:
    """Row numbers (s,), ascending; of few rows all, whatever is skipped."""
    if len(items) <= skip + count:
        return np.arange(min(len(items), skip + count))
    first = pl.DataFrame(schema={"row": pl.Int64, "sha256": pl.String, "id": pl.String})
    for start, block in items.row_blocks.blocks(["id", "sha256"]):
        numbers = pl.int_range(start, start + block.height, dtype=pl.Int64, eager=True)
        rows = block.select(numbers.alias("row"), "sha256", "id")
        first = pl.concat([first, rows]).bottom_k(skip + count, by=["sha256", "id"])
    order = first.sort("sha256", "id")["row"].to_numpy()
    return np.sort(order[skip : skip + count])


def _exact_pairs(
    left: Items, right: Items, rows: Indices, spec: JoinSpec, one_catalog: bool
) -> tuple[Indices, Indices, Doubles]:
    """The pairs of the rows that the spec asks for, if every row is an item."""
    found = join(
        JoinSide.of(left).take(rows), JoinSide.of(right), spec, np.full(len(rows), spec.threshold)
    )
    within = np.ones(len(found.i), dtype=bool)
    if spec.k is not None:
        within = np.arange(len(found.i)) - np.searchsorted(found.i, found.i) < spec.k
    if one_catalog:
        numbers = (left.images, rows[found.i]), (right.images, found.j)
        ids = [images.gather(of_side, ["id"])["id"] for images, of_side in numbers]
        within &= (ids[0] != ids[1]).to_numpy()
    return rows[found.i[within]], found.j[within], found.similarity[within]
