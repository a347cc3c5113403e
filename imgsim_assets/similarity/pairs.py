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
from imgsim_assets.similarity.join_input import Pair, Side

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
    lists = _compared(left.side, right.side, question, bars)
    complete = pl.Series(COMPLETE, ~lists.cut_off[lists.i])
    return _frame(lists, left, right).with_columns(complete)


def update(previous: Answer, left: Items, right: Items, question: Question) -> pl.DataFrame:
    """The lists of all left items, from those of an earlier state of the items.

    The pairs that `best` takes of them are those it takes of `compute`. Compared anew are
    changed and added left items with everything, the rest with changed and added right items,
    and left items of whose k best pairs one can no longer be told.
    """
    standing = _Standing.of(previous, left.keys, right.keys, least=question.k or 0)
    anew = _compared(
        left.side.where(standing.open_left),
        right.side,
        question,
        np.full(len(left), question.threshold),
    )
    against_new = _compared(
        left.side.where(~standing.open_left),
        right.side.where(standing.new_right),
        question,
        standing.ends(question.threshold),
    )
    return standing.merged(anew.beside(against_new), question.depth, left, right)


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


# ---- lists of pairs ----------------------------------------------------------------------


class _Lists(NamedTuple):
    """Pairs of row numbers, by left row, falling similarity and right row.

    `cut_off` (n,) says of each left row whether its list was cut off.
    """

    i: Indices
    j: Indices
    similarity: Doubles
    cut_off: NDArray[np.bool_]

    def beside(self, other: _Lists) -> _Lists:
        """These lists and those of other left rows."""
        i, j, similarity = (
            np.concatenate(parts) for parts in zip(self[:3], other[:3], strict=True)
        )
        order = np.argsort(i, kind="stable")
        return _Lists(i[order], j[order], similarity[order], self.cut_off | other.cut_off)


class _Standing(NamedTuple):
    """What still stands of an earlier answer: the pairs of unchanged items, by id as they were.

    `lengths` and `cut_off` (n,) are those of the list of each left row. The lists of `open_left`
    (n,) are not known, and `new_right` (m,) are in none.
    """

    pairs: pl.DataFrame
    lengths: Indices
    cut_off: NDArray[np.bool_]
    open_left: NDArray[np.bool_]
    new_right: NDArray[np.bool_]

    @classmethod
    def of(
        cls, answer: Answer, left: pl.DataFrame, right: pl.DataFrame, *, least: int
    ) -> _Standing:
        """What stands where the items are now (id, sha256).

        A list that was cut off is of no use when fewer than `least` pairs of it are left.
        """
        left_place, right_place = _places(answer.left, left), _places(answer.right, right)
        pairs = answer.lists
        first = pairs["left_id"].ne_missing(pairs["left_id"].shift()).arg_true().to_numpy()
        # Places rise with the lists, as both are sorted by id.
        place = left_place[_rows_of(pairs["left_id"].gather(first), answer.left)]
        placed = place >= 0
        gone = answer.right["id"].filter(pl.Series(right_place < 0))
        stands = ~pairs["right_id"].is_in(gone.implode()).to_numpy()

        lengths, cut_off = np.zeros(left.height, np.int64), np.zeros(left.height, dtype=bool)
        lengths[place[placed]] = np.add.reduceat(stands, first, dtype=np.int64)[placed]
        cut_off[place[placed]] = ~pairs[COMPLETE].gather(first).to_numpy()[placed]
        too_short = cut_off & (lengths < least)
        lengths[too_short], cut_off[too_short] = 0, False

        placed[placed] = ~too_short[place[placed]]
        stands &= np.repeat(placed, np.diff(np.append(first, pairs.height)))
        return cls(
            pairs.select(list(SCHEMA)).filter(pl.Series(stands)),
            lengths,
            cut_off,
            _unplaced(left_place, left.height) | too_short,
            _unplaced(right_place, right.height),
        )

    def ends(self, threshold: float) -> Doubles:
        """The least similarity that may still belong into each list, (n,)."""
        ends = np.full(len(self.lengths), threshold)
        last = np.cumsum(self.lengths) - 1
        ends[self.cut_off] = self.pairs["similarity"].gather(last[self.cut_off]).to_numpy()
        return ends

    def merged(self, new: _Lists, depth: int | None, left: Items, right: Items) -> pl.DataFrame:
        """The lists with new pairs, the first `depth` of each and as far as all are known."""
        at = self._places_of(new, right.keys["id"])
        count = self.pairs.height
        order = np.insert(np.arange(count), at, np.arange(count, count + len(at)))
        cut_off = self.cut_off | new.cut_off
        lengths = self.lengths + np.bincount(new.i, minlength=len(cut_off))
        if depth is not None:
            start = np.cumsum(lengths) - lengths
            # Behind the last earlier pair of a list that was cut off, pairs are missing.
            last = np.cumsum(self.lengths) - 1
            known = last + np.searchsorted(at, last, side="right") - start + 1
            most = np.minimum(np.where(self.cut_off, known, depth), depth)
            order = order[
                np.arange(len(order)) - np.repeat(start, lengths) < np.repeat(most, lengths)
            ]
            cut_off |= lengths > depth
            lengths = np.minimum(lengths, most)
        both = pl.concat([self.pairs, _frame(new, left, right)], rechunk=True)
        ordered = both.select(pl.all().gather(pl.Series(order, dtype=pl.get_index_type())))
        return ordered.with_columns(pl.Series(COMPLETE, np.repeat(~cut_off, lengths)))

    def _places_of(self, new: _Lists, right_ids: pl.Series) -> Indices:
        """Where each of the new pairs belongs among these; all in one bisection."""
        counts = np.append(0, np.cumsum(self.lengths))
        low, high = counts[new.i], counts[new.i + 1]
        similarity, ids = self.pairs["similarity"].to_numpy(), self.pairs["right_id"]
        while (searching := np.flatnonzero(low < high)).size:
            middle = (low[searching] + high[searching]) // 2
            mine, theirs = similarity[middle], new.similarity[searching]
            before = mine > theirs
            tied = np.flatnonzero(mine == theirs)
            their_ids = right_ids.gather(new.j[searching[tied]])
            before[tied] = (ids.gather(middle[tied]) < their_ids).to_numpy()
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
        # Each item may find itself among its neighbors, so ask for one more.
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
        },
        schema=SCHEMA,
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
