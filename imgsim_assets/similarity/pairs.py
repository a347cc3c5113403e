"""Pairs of similar items, computed in full or brought up to date at the cost of the change.

A frame of pairs has the columns left_id, right_id and similarity (float64 cosine), sorted
by left_id, falling similarity and right_id. With k, each left item has at most its k best.

What is kept for the next update is a list of pairs for each left item, of more than k where k
are asked for: when right items are removed, the reserve moves up. A list that was cut off
knows every pair that is better than its last one, and only those; the column `complete` says
of a list that it was not cut off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Doubles, Floats, Indices
from imgsim_assets.similarity.join import threshold_join, top_k

SCHEMA = {"left_id": pl.String, "right_id": pl.String, "similarity": pl.Float64}
COMPLETE = "complete"
LIST_SCHEMA = {**SCHEMA, COMPLETE: pl.Boolean}
LEAST = -1.0
# Fewer than this are never kept in reserve.
_LEAST_RESERVE = 4


@dataclass(frozen=True)
class Items:
    """Items with their vectors: `keys` has the columns id and sha256, sorted by id.

    `vectors` is (n, d) float32 with unit rows, in the same order.
    """

    keys: pl.DataFrame
    vectors: Floats

    def __len__(self) -> int:
        return self.keys.height

    def where(self, mask: NDArray[np.bool_]) -> Items:
        """The items of a mask, in their order."""
        return Items(self.keys.filter(pl.Series(mask)), self.vectors[mask])


@dataclass(frozen=True)
class Question:
    """What is asked of two sets of items.

    `threshold` is the least cosine, inclusive. `k` keeps each left item's k best, None keeps
    all. `others_only` leaves out pairs of an id with itself, for one set against itself.
    """

    threshold: float = LEAST
    k: int | None = None
    others_only: bool = False

    @property
    def depth(self) -> int | None:
        """How many pairs of each left item are kept for the next update."""
        return None if self.k is None else self.k + max(_LEAST_RESERVE, self.k)


@dataclass(frozen=True)
class Answer:
    """Lists of pairs, with the items (id, sha256) of both sides they were computed from."""

    lists: pl.DataFrame
    left: pl.DataFrame
    right: pl.DataFrame


def compute(
    left: Items, right: Items, question: Question, *, at_least: Doubles | None = None
) -> pl.DataFrame:
    """The lists of all left items, computed from the vectors; see LIST_SCHEMA.

    Pairs below an item's own bar in `at_least` (n,) are left out of a list of limited length.
    """
    if not len(left) or not len(right):
        return pl.DataFrame(schema=LIST_SCHEMA)
    depth = question.depth
    if depth is None:
        i, j, similarity = threshold_join(left.vectors, right.vectors, question.threshold)
    else:
        # Each item may find itself among its neighbours, so ask for one more.
        wanted = depth + 1 if question.others_only else depth
        bars = question.threshold if at_least is None else at_least
        i, j, similarity = _flat(*top_k(left.vectors, right.vectors, wanted, at_least=bars))
    pairs = pl.DataFrame(
        {
            "left_id": left.keys["id"].gather(i),
            "right_id": right.keys["id"].gather(j),
            "similarity": similarity,
            COMPLETE: pl.repeat(value=True, n=len(i), eager=True),
        },
        schema=LIST_SCHEMA,
    )
    counted = pairs.filter(pl.col("similarity") >= question.threshold)
    if question.others_only:
        counted = counted.filter(pl.col("left_id") != pl.col("right_id"))
    if depth is None:
        return _ordered(counted)
    # A full list may have been cut off.
    return _cut(counted, depth, full=depth)


def update(previous: Answer, left: Items, right: Items, question: Question) -> pl.DataFrame:
    """The lists of all left items, from those of an earlier state of the items.

    The pairs that `best` takes of them are those it takes of `compute`. Compared anew are
    changed and added left items with everything, the rest with changed and added right items,
    and left items of whose k best pairs one can no longer be told.
    """
    new_left = _is_new(left.keys, previous.left)
    new_right = _is_new(right.keys, previous.right)
    standing = previous.lists.join(
        left.keys.filter(pl.Series(~new_left)), left_on="left_id", right_on="id", how="semi"
    )
    standing = standing.join(
        right.keys.filter(pl.Series(~new_right)), left_on="right_id", right_on="id", how="semi"
    )
    cut_off = previous.lists.filter(~pl.col(COMPLETE)).select("left_id").unique()
    open_left = new_left | _too_short(left.keys, cut_off, standing, question.k)
    asked_anew = compute(left.where(open_left), right, question)
    against_new = compute(
        left.where(~open_left),
        right.where(new_right),
        question,
        at_least=_ends(left.keys.filter(pl.Series(~open_left)), standing, question.threshold),
    )
    reopened = left.keys.filter(pl.Series(open_left))
    standing = standing.join(reopened, left_on="left_id", right_on="id", how="anti")
    lists = pl.concat([standing, asked_anew])
    if not against_new.height:
        return _ordered(lists)
    return _merged(standing, against_new, asked_anew, question)


def best(lists: pl.DataFrame, question: Question) -> pl.DataFrame:
    """The pairs that answer the question, of lists as `compute` and `update` make them."""
    pairs = lists.select(list(SCHEMA))
    if question.k is None:
        return pairs
    return pairs.filter(pl.int_range(pl.len()).over("left_id") < question.k)


def _merged(
    standing: pl.DataFrame, against_new: pl.DataFrame, anew: pl.DataFrame, question: Question
) -> pl.DataFrame:
    """Lists of earlier pairs with new ones, as far as their order is known."""
    if question.depth is None:
        return _ordered(pl.concat([standing, against_new, anew]))
    state = standing.group_by("left_id").agg(pl.col(COMPLETE).first().alias("whole"))
    both = _ordered(
        pl.concat(
            [
                standing.with_columns(pl.lit(value=True).alias("old")),
                against_new.with_columns(pl.lit(value=False).alias("old")),
            ]
        )
    ).join(state, on="left_id", how="left", maintain_order="left")
    # Behind the last earlier pair of a list that was cut off, pairs are missing.
    last = pl.int_range(pl.len()).filter(pl.col("old")).max().over("left_id")
    known = both.filter(
        pl.col("whole").fill_null(value=True) | (pl.int_range(pl.len()).over("left_id") <= last)
    )
    whole = known.with_columns(pl.col("whole").fill_null(value=True).alias(COMPLETE))
    cut = _cut(whole.select(list(LIST_SCHEMA)), question.depth, full=question.depth + 1)
    return _ordered(pl.concat([cut, anew]))


def _cut(lists: pl.DataFrame, depth: int, *, full: int) -> pl.DataFrame:
    """The first `depth` of each list; one that had `full` pairs may have more."""
    ordered = _ordered(lists)
    uncut = pl.col(COMPLETE) & (pl.len().over("left_id") < full)
    ordered = ordered.with_columns(uncut.alias(COMPLETE))
    return ordered.filter(pl.int_range(pl.len()).over("left_id") < depth)


def _is_new(keys: pl.DataFrame, known: pl.DataFrame) -> NDArray[np.bool_]:
    """Which items were not there before with the same image, (n,) bool."""
    old = keys.join(
        known.with_columns(pl.lit(value=False).alias("new")),
        on=["id", "sha256"],
        how="left",
        maintain_order="left",
    )
    mask: NDArray[np.bool_] = old["new"].fill_null(value=True).to_numpy()
    return mask


def _too_short(
    keys: pl.DataFrame, cut_off: pl.DataFrame, standing: pl.DataFrame, k: int | None
) -> NDArray[np.bool_]:
    """Which items have fewer than k pairs left of a list that was cut off, (n,) bool."""
    if k is None:
        return np.zeros(keys.height, dtype=bool)
    left = cut_off.join(standing.group_by("left_id").len("left"), on="left_id", how="left")
    short = left.filter(pl.col("left").fill_null(0) < k)["left_id"]
    mask: NDArray[np.bool_] = keys["id"].is_in(short.implode()).to_numpy()
    return mask


def _ends(keys: pl.DataFrame, standing: pl.DataFrame, threshold: float) -> Doubles:
    """The least similarity that may still belong into the list of each item, (n,)."""
    cut_off = standing.filter(~pl.col(COMPLETE))
    ends = cut_off.group_by("left_id").agg(pl.col("similarity").min().alias("end"))
    of_item = keys.join(ends, left_on="id", right_on="left_id", how="left", maintain_order="left")
    least: Doubles = of_item["end"].fill_null(threshold).to_numpy()
    return least


def _flat(index: Indices, similarity: Doubles) -> tuple[Indices, Indices, Doubles]:
    rows, places = np.nonzero(index >= 0)
    return rows, index[rows, places], similarity[rows, places]


def _ordered(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.sort(["left_id", "similarity", "right_id"], descending=[False, True, False])


def with_rank(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs with `rank`, Int32 from 1 within each left item."""
    place = pl.int_range(1, pl.len() + 1).over("left_id").cast(pl.Int32)
    return pairs.with_columns(place.alias("rank"))
