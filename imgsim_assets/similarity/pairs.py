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
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Doubles, Floats, Indices
from imgsim_assets.similarity.join import nearest, pairs_above
from imgsim_assets.similarity.sides import Pair, Side

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

    @cached_property
    def side(self) -> Side:
        """The vectors, checked, their copies found."""
        return Side.of(self.vectors, "vectors")

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


def compute(left: Items, right: Items, question: Question) -> pl.DataFrame:
    """The lists of all left items, computed from the vectors; see LIST_SCHEMA."""
    bars = np.full(len(left), question.threshold)
    return _frame(_compared(left.side, right.side, question, bars), left, right)


def update(previous: Answer, left: Items, right: Items, question: Question) -> pl.DataFrame:
    """The lists of all left items, from those of an earlier state of the items.

    The pairs that `best` takes of them are those it takes of `compute`. Compared anew are
    changed and added left items with everything, the rest with changed and added right items,
    and left items of whose k best pairs one can no longer be told.
    """
    left_place, right_place = _places(previous.left, left.keys), _places(previous.right, right.keys)
    known = _Lists.of(previous, left_place, right_place, len(left))
    open_left, new_right = _unplaced(left_place, len(left)), _unplaced(right_place, len(right))
    if question.k is not None:
        open_left |= known.cut_off & (known.lengths < question.k)
    standing = known.where(~open_left)
    anew = _compared(
        left.side.where(open_left), right.side, question, np.full(len(left), question.threshold)
    )
    against_new = _compared(
        left.side.where(~open_left),
        right.side.where(new_right),
        question,
        standing.ends(question.threshold),
    )
    merged = standing.merged(against_new, question.depth).merged(anew, None)
    return _frame(merged, left, right)


def best(lists: pl.DataFrame, question: Question) -> pl.DataFrame:
    """The pairs that answer the question, of lists as `compute` and `update` make them."""
    pairs = lists.select(list(SCHEMA))
    if question.k is None:
        return pairs
    return pairs.filter(_place() < question.k)


def with_rank(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs with `rank`, Int32 from 1 within each left item."""
    return pairs.with_columns((_place() + 1).cast(pl.Int32).alias("rank"))


def _place() -> pl.Expr:
    """The place of each pair among those of its left item, from 0; pairs are in order."""
    row = pl.int_range(pl.len())
    begins = pl.col("left_id") != pl.col("left_id").shift()
    return row - pl.when(begins.fill_null(value=True)).then(row).forward_fill()


# ---- lists by row number ----------------------------------------------------------------


class _Lists(NamedTuple):
    """Pairs of row numbers, by left row, falling similarity and right row.

    `cut_off` (n,) says of each left row whether its list was cut off.
    """

    i: Indices
    j: Indices
    similarity: Doubles
    cut_off: NDArray[np.bool_]

    @classmethod
    def of(cls, answer: Answer, left: Indices, right: Indices, count: int) -> _Lists:
        """Those of an earlier answer whose items still stand, at their places now.

        `left` and `right` are the places of the earlier items, -1 for those that are gone or
        changed. Places rise with the earlier ones, as both are sorted by id.
        """
        rows = [
            _rows_of(answer.lists[column], keys)
            for column, keys in (("left_id", answer.left), ("right_id", answer.right))
        ]
        i, j = left[rows[0]], right[rows[1]]
        stands = (i >= 0) & (j >= 0)
        cut_off = np.zeros(count, dtype=bool)
        ended = ~answer.lists[COMPLETE].to_numpy() & (i >= 0)
        cut_off[i[ended]] = True
        similarity = answer.lists["similarity"].to_numpy()
        return cls(i[stands], j[stands], similarity[stands], cut_off)

    @property
    def lengths(self) -> Indices:
        """How many pairs each left row has, (n,)."""
        return np.bincount(self.i, minlength=len(self.cut_off))

    def where(self, mask: NDArray[np.bool_]) -> _Lists:
        """The lists of some left rows; the others become empty."""
        kept = mask[self.i]
        return _Lists(self.i[kept], self.j[kept], self.similarity[kept], self.cut_off & mask)

    def ends(self, threshold: float) -> Doubles:
        """The least similarity that may still belong into each list, (n,)."""
        ends = np.full(len(self.cut_off), threshold)
        lengths = self.lengths
        last = np.cumsum(lengths) - 1
        limited = self.cut_off & (lengths > 0)
        ends[limited] = self.similarity[last[limited]]
        return ends

    def merged(self, new: _Lists, at_most: int | None) -> _Lists:
        """These lists with new pairs, the first `at_most` of each and as far as all are known."""
        at = self._places_of(new)
        i, j, similarity = (
            np.insert(own, at, others) for own, others in zip(self[:3], new[:3], strict=True)
        )
        cut_off = self.cut_off | new.cut_off
        if at_most is None:
            return _Lists(i, j, similarity, cut_off)
        start = np.searchsorted(i, np.arange(len(cut_off)))
        length = np.diff(np.append(start, len(i)))
        # Behind the last earlier pair of a list that was cut off, pairs are missing.
        last = np.cumsum(self.lengths) - 1
        known = last + np.searchsorted(at, last, side="right") - start + 1
        most = np.minimum(np.where(self.cut_off, known, at_most), at_most)
        kept = np.arange(len(i)) - start[i] < most[i]
        return _Lists(i[kept], j[kept], similarity[kept], cut_off | (length > at_most))

    def _places_of(self, new: _Lists) -> Indices:
        """Where each of the new pairs belongs among these; all in one bisection."""
        counts = np.append(0, np.cumsum(self.lengths))
        low, high = counts[new.i], counts[new.i + 1]
        while (searching := np.flatnonzero(low < high)).size:
            middle = (low[searching] + high[searching]) // 2
            mine, theirs = self.similarity[middle], new.similarity[searching]
            before = (mine > theirs) | ((mine == theirs) & (self.j[middle] < new.j[searching]))
            low[searching[before]] = middle[before] + 1
            high[searching[~before]] = middle[~before]
        return low


def _compared(left: Side, right: Side, question: Question, at_least: Doubles) -> _Lists:
    """The lists of the left rows, of pairs at or above each row's own bar (n,)."""
    count = len(left.unit.rows)
    whole = np.zeros(count, dtype=bool)
    if not len(left) or not len(right):
        return _Lists(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), whole)
    depth = question.depth
    if depth is None:
        i, j, similarity = pairs_above(Pair.of(left, right), question.threshold)
    else:
        # Each item may find itself among its neighbours, so ask for one more.
        wanted = depth + 1 if question.others_only else depth
        index, cosines = nearest(Pair.of(left, right), wanted, at_least)
        i, places = np.nonzero(index >= 0)
        j, similarity = index[i, places], cosines[i, places]
    if question.others_only:
        others = i != j
        i, j, similarity = i[others], j[others], similarity[others]
    if depth is None:
        return _Lists(i, j, similarity, whole)
    start = np.searchsorted(i, np.arange(count))
    kept = np.arange(len(i)) - start[i] < depth
    # A full list may have been cut off.
    full = np.diff(np.append(start, len(i))) >= depth
    return _Lists(i[kept], j[kept], similarity[kept], full)


def _frame(lists: _Lists, left: Items, right: Items) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "left_id": left.keys["id"].gather(lists.i),
            "right_id": right.keys["id"].gather(lists.j),
            "similarity": lists.similarity,
            COMPLETE: ~lists.cut_off[lists.i],
        },
        schema=LIST_SCHEMA,
    )


def _places(earlier: pl.DataFrame, keys: pl.DataFrame) -> Indices:
    """Where each earlier item stands now with the same image, (n,); -1 where it does not."""
    placed = earlier.join(
        keys.with_row_index("place"), on=["id", "sha256"], how="left", maintain_order="left"
    )
    places: Indices = placed["place"].cast(pl.Int64).fill_null(-1).to_numpy()
    return places


def _unplaced(places: Indices, count: int) -> NDArray[np.bool_]:
    """At which of `count` places no earlier item stands, (count,)."""
    mask = np.ones(count, dtype=bool)
    mask[places[places >= 0]] = False
    return mask


def _rows_of(ids: pl.Series, keys: pl.DataFrame) -> Indices:
    """The row numbers (n,) of ids among the keys."""
    rows = ids.to_frame("id").join(
        keys.select("id").with_row_index("row"), on="id", how="left", maintain_order="left"
    )
    found: Indices = rows["row"].cast(pl.Int64).to_numpy()
    return found
