"""Pairs of similar items, computed in full or brought up to date at the cost of the change.

A frame of pairs has the columns left_id, right_id and similarity (float64 cosine), sorted
by left_id, falling similarity and right_id. With k, each left item has at most its k best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Doubles, Floats, Indices
from imgsim_assets.similarity.join import threshold_join, top_k

SCHEMA = {"left_id": pl.String, "right_id": pl.String, "similarity": pl.Float64}
LEAST = -1.0


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


@dataclass(frozen=True)
class Answer:
    """Pairs, with the items (id, sha256) of both sides that they were computed from."""

    pairs: pl.DataFrame
    left: pl.DataFrame
    right: pl.DataFrame


def compute(left: Items, right: Items, question: Question) -> pl.DataFrame:
    """All pairs that answer the question, computed from the vectors."""
    if not len(left) or not len(right):
        return pl.DataFrame(schema=SCHEMA)
    if question.k is None:
        i, j, similarity = threshold_join(left.vectors, right.vectors, question.threshold)
    else:
        # Each item may find itself among its neighbours, so ask for one more.
        wanted = question.k + 1 if question.others_only else question.k
        i, j, similarity = _flat(*top_k(left.vectors, right.vectors, wanted))
    pairs = pl.DataFrame(
        {
            "left_id": left.keys["id"].gather(i),
            "right_id": right.keys["id"].gather(j),
            "similarity": similarity,
        },
        schema=SCHEMA,
    )
    return _best(pairs, question)


def update(previous: Answer, left: Items, right: Items, question: Question) -> pl.DataFrame:
    """The same pairs as `compute`, from those of an earlier state of the items.

    Compared anew are changed and added left items with everything, the rest with changed and
    added right items, and, when k pairs are kept of each, left items that lost one of a full
    set: what takes its place was never kept.
    """
    new_left = _is_new(left.keys, previous.left)
    new_right = _is_new(right.keys, previous.right)
    kept = previous.pairs.join(
        left.keys.filter(pl.Series(~new_left)), left_on="left_id", right_on="id", how="semi"
    )
    standing = kept.join(
        right.keys.filter(pl.Series(~new_right)), left_on="right_id", right_on="id", how="semi"
    )
    open_left = new_left | _lost_one_of_k(left.keys, kept, standing, question.k)
    asked_anew = compute(left.where(open_left), right, question)
    against_new = compute(left.where(~open_left), right.where(new_right), question)
    reopened = left.keys.filter(pl.Series(open_left))
    standing = standing.join(reopened, left_on="left_id", right_on="id", how="anti")
    return _best(pl.concat([standing, asked_anew, against_new]), question)


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


def _lost_one_of_k(
    keys: pl.DataFrame, kept: pl.DataFrame, standing: pl.DataFrame, k: int | None
) -> NDArray[np.bool_]:
    if k is None:
        return np.zeros(keys.height, dtype=bool)
    before = kept.group_by("left_id").len("before")
    after = standing.group_by("left_id").len("after")
    counts = before.join(after, on="left_id", how="left").with_columns(pl.col("after").fill_null(0))
    lost = counts.filter((pl.col("before") == k) & (pl.col("after") < k))["left_id"]
    mask: NDArray[np.bool_] = keys["id"].is_in(lost.implode()).to_numpy()
    return mask


def _flat(index: Indices, similarity: Doubles) -> tuple[Indices, Indices, Doubles]:
    rows, places = np.nonzero(index >= 0)
    return rows, index[rows, places], similarity[rows, places]


def _best(pairs: pl.DataFrame, question: Question) -> pl.DataFrame:
    """The pairs that count, in the order of the frame's description."""
    counted = pairs.filter(pl.col("similarity") >= question.threshold)
    if question.others_only:
        counted = counted.filter(pl.col("left_id") != pl.col("right_id"))
    ordered = counted.sort(["left_id", "similarity", "right_id"], descending=[False, True, False])
    if question.k is None:
        return ordered
    return ordered.filter(pl.int_range(pl.len()).over("left_id") < question.k)


def with_rank(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs with `rank`, Int32 from 1 within each left item."""
    place = pl.int_range(1, pl.len() + 1).over("left_id").cast(pl.Int32)
    return pairs.with_columns(place.alias("rank"))
