"""Neighbor lists: similar pairs of rows, computed in full or updated incrementally.

A row is an image of an item (`items.py`), and its id is its key. A frame of pairs has the columns
left_id, right_id and similarity (float64 cosine), sorted by left_id, falling similarity and
right_id.

The k best items of a left row are among its k * m best rows, where m is the largest number of rows
of a right item: every row that precedes a row of the k-th item belongs to one of k items. Lists
are longer than that: when right rows are removed, the extra pairs take their place. A list that was
truncated holds every pair that is better than its last one, and none that is worse; the column
`complete` is true for a list that was not truncated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.items import VALUE, Items
from imgsim_assets.similarity.join_input import InputPair
from imgsim_assets.similarity.row_pairs import pairs_within, row_pairs

SCHEMA = {"left_id": pl.String, "right_id": pl.String, "similarity": pl.Float64}
COMPLETE = "complete"
LIST_SCHEMA = {**SCHEMA, COMPLETE: pl.Boolean}
MIN_COSINE = -1.0
_MIN_RESERVE = 4


@dataclass(frozen=True)
class JoinSpec:
    """Which pairs of left and right rows a join returns.

    `threshold` is the minimum cosine, inclusive. `k` keeps the rows of the k best right items of
    each left row, None keeps all. `exclude_self` drops pairs of rows of one item, for a join of
    one set with itself.
    """

    threshold: float = MIN_COSINE
    k: int | None = None
    exclude_self: bool = False

    def min_length(self, max_images: int) -> int:
        """The length at which a truncated list holds the k best items, of `max_images` at most."""
        return 0 if self.k is None else self.k * max_images

    def depth(self, max_images: int) -> int | None:
        """The maximum length of a neighbor list; None for no limit."""
        if self.k is None:
            return None
        return self.min_length(max_images) + max(_MIN_RESERVE, self.k)


@dataclass(frozen=True)
class CachedNeighborLists:
    """Neighbor lists, with the left and right rows (`Items.rows`) they were computed from."""

    lists: pl.DataFrame
    left: pl.DataFrame
    right: pl.DataFrame

    def swapped(self) -> CachedNeighborLists:
        """The same lists for a join with left and right exchanged."""
        return CachedNeighborLists(self.lists, self.right, self.left)


def neighbor_lists(
    left: Items, right: Items, spec: JoinSpec, cached: CachedNeighborLists | None = None
) -> pl.DataFrame:
    """The neighbor lists of all left rows.

    With cached lists only these are compared: changed and added left rows with all right rows,
    other left rows with changed and added right rows, and left rows whose truncated list is too
    short by now. The items that follow from the result are the same.

    Args:
        left: the rows that get a list each.
        right: the rows that are searched for neighbors.
        spec: threshold, k and whether an item is its own neighbor.
        cached: lists by the same spec, of earlier rows.

    Returns:
        The lists, see LIST_SCHEMA.
    """
    if cached is None:
        lists = _join(left, None, right, None, spec, np.full(len(left), spec.threshold))
        complete = pl.Series(COMPLETE, ~lists.truncated[lists.i])
        return _frame(lists, left, right).with_columns(complete)
    reusable = _ReusableLists.of(
        cached, left.rows, right.rows, min_length=spec.min_length(right.max_images)
    )
    cutoffs = np.full(len(left), spec.threshold)
    recomputed = _join(left, reusable.recompute_left, right, None, spec, cutoffs)
    cutoffs = reusable.cutoffs(spec.threshold)
    added = _join(left, ~reusable.recompute_left, right, reusable.new_right, spec, cutoffs)
    return reusable.merge(recomputed.concat(added), spec.depth(right.max_images), left, right)


def top_pairs(lists: pl.DataFrame, spec: JoinSpec) -> pl.DataFrame:
    """The pairs that the spec asks for, if every row is an item: the k best of each, or all."""
    pairs = lists.select(list(SCHEMA))
    return pairs if spec.k is None else pairs.filter(position_in_list() < spec.k)


def with_rank(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs with `rank`, Int32 from 1 within each left id."""
    return pairs.with_columns((position_in_list() + 1).cast(pl.Int32).alias("rank"))


def position_in_list() -> pl.Expr:
    """The position of each pair among those of its left id, from 0; pairs are in order."""
    row = pl.int_range(pl.len())
    begins = pl.col("left_id") != pl.col("left_id").shift()
    return row - pl.when(begins.fill_null(value=True)).then(row).forward_fill()


class _Lists(NamedTuple):
    """Pairs of row numbers, by left row, falling similarity and right row.

    `truncated` (n,) says of each left row whether its list was truncated.
    """

    i: Indices
    j: Indices
    similarity: Doubles
    truncated: NDArray[np.bool_]

    def concat(self, other: _Lists) -> _Lists:
        """These lists and those of other left rows."""
        i, j, similarity = (
            np.concatenate(parts) for parts in zip(self[:3], other[:3], strict=True)
        )
        order = np.argsort(i, kind="stable")
        return _Lists(i[order], j[order], similarity[order], self.truncated | other.truncated)


class _ReusableLists(NamedTuple):
    """Cached pairs that are still valid: those of unchanged items, in their order.

    `lengths` and `truncated` (n,) are those of the list of each left row. The lists of the left
    rows `recompute_left` (n,) are empty, and the right rows `new_right` (m,) are in none.
    """

    pairs: pl.DataFrame
    lengths: Indices
    truncated: NDArray[np.bool_]
    recompute_left: NDArray[np.bool_]
    new_right: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        cached: CachedNeighborLists,
        left: pl.DataFrame,
        right: pl.DataFrame,
        *,
        min_length: int,
    ) -> _ReusableLists:
        """What can be reused for the current rows.

        A list that was truncated is recomputed when fewer than `min_length` of its pairs are left.
        """
        left_position = _positions(cached.left, left)
        right_position = _positions(cached.right, right)
        pairs = cached.lists
        first = pairs["left_id"].ne_missing(pairs["left_id"].shift()).arg_true().to_numpy()
        # Positions rise from list to list, as both are sorted by id.
        position = left_position[_rows_of(pairs["left_id"].gather(first), cached.left)]
        reused = position >= 0
        gone = cached.right["id"].filter(pl.Series(right_position < 0))
        still_valid = ~pairs["right_id"].is_in(gone.implode()).to_numpy()

        lengths, truncated = np.zeros(left.height, np.int64), np.zeros(left.height, dtype=bool)
        lengths[position[reused]] = np.add.reduceat(still_valid, first, dtype=np.int64)[reused]
        truncated[position[reused]] = ~pairs[COMPLETE].gather(first).to_numpy()[reused]
        too_short = truncated & (lengths < min_length)
        lengths[too_short], truncated[too_short] = 0, False

        reused[reused] = ~too_short[position[reused]]
        still_valid &= np.repeat(reused, np.diff(np.append(first, pairs.height)))
        return cls(
            pairs.select(list(SCHEMA)).filter(pl.Series(still_valid)),
            lengths,
            truncated,
            _without_position(left_position, left.height) | too_short,
            _without_position(right_position, right.height),
        )

    def cutoffs(self, threshold: float) -> Doubles:
        """The minimum similarity that a new pair of each list needs, (n,)."""
        cutoffs = np.full(len(self.lengths), threshold)
        last = np.cumsum(self.lengths) - 1
        cutoffs[self.truncated] = self.pairs["similarity"].gather(last[self.truncated]).to_numpy()
        return cutoffs

    def merge(self, new: _Lists, depth: int | None, left: Items, right: Items) -> pl.DataFrame:
        """The lists with new pairs, each truncated at `depth` and where pairs may be missing."""
        at = self._insert_positions(new, right.rows["id"])
        count = self.pairs.height
        order = np.insert(np.arange(count), at, np.arange(count, count + len(at)))
        truncated = self.truncated | new.truncated
        lengths = self.lengths + np.bincount(new.i, minlength=len(truncated))
        if depth is not None:
            start = np.cumsum(lengths) - lengths
            # Behind the last cached pair of a list that was truncated, pairs are missing.
            last = np.cumsum(self.lengths) - 1
            without_gap = last + np.searchsorted(at, last, side="right") - start + 1
            limit = np.minimum(np.where(self.truncated, without_gap, depth), depth)
            order = order[
                np.arange(len(order)) - np.repeat(start, lengths) < np.repeat(limit, lengths)
            ]
            truncated |= lengths > depth
            lengths = np.minimum(lengths, limit)
        both = pl.concat([self.pairs, _frame(new, left, right)], rechunk=True)
        ordered = both.select(pl.all().gather(pl.Series(order, dtype=pl.get_index_type())))
        return ordered.with_columns(pl.Series(COMPLETE, np.repeat(~truncated, lengths)))

    def _insert_positions(self, new: _Lists, right_ids: pl.Series) -> Indices:
        """Where each new pair belongs among the reused ones, by one bisection of all at once."""
        ends = np.append(0, np.cumsum(self.lengths))
        low, high = ends[new.i], ends[new.i + 1]
        similarity, ids = self.pairs["similarity"].to_numpy(), self.pairs["right_id"]
        while (searching := np.flatnonzero(low < high)).size:
            middle = (low[searching] + high[searching]) // 2
            reused, added = similarity[middle], new.similarity[searching]
            before = reused > added
            tied = np.flatnonzero(reused == added)
            added_ids = right_ids.gather(new.j[searching[tied]])
            before[tied] = (ids.gather(middle[tied]) < added_ids).to_numpy()
            low[searching[before]] = middle[before] + 1
            high[searching[~before]] = middle[~before]
        return low


def _join(
    left: Items,
    left_mask: NDArray[np.bool_] | None,
    right: Items,
    right_mask: NDArray[np.bool_] | None,
    spec: JoinSpec,
    min_similarity: Doubles,
) -> _Lists:
    """The lists of the left rows, of pairs at or above the minimum (n,) of each left row.

    A mask (n,) says which rows are compared; None means all.
    """
    depth = spec.depth(right.max_images)
    none_truncated = np.zeros(len(left), dtype=bool)
    left_input, right_input = (
        side.join_input if mask is None else side.join_input.where(mask)
        for side, mask in ((left, left_mask), (right, right_mask))
    )
    if not len(left_input) or not len(right_input):
        return _Lists(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), none_truncated)
    # As many more as an item may find of itself.
    k = depth + right.max_images if depth is not None and spec.exclude_self else depth
    if VALUE in left.keys.columns:
        values = left.values(left_mask), right.values(right_mask)
        i, j, similarity = pairs_within(
            left.join_input, right.join_input, *values, k, min_similarity
        )
    else:
        i, j, similarity = row_pairs(InputPair.of(left_input, right_input), k, min_similarity)
    if spec.exclude_self:
        others = left.numbers[i] != right.numbers[j]
        i, j, similarity = i[others], j[others], similarity[others]
    if depth is None:
        return _Lists(i, j, similarity, none_truncated)
    start = np.searchsorted(i, np.arange(len(left)))
    within = np.arange(len(i)) - start[i] < depth
    # A full list may have been truncated.
    full = np.diff(np.append(start, len(i))) >= depth
    return _Lists(i[within], j[within], similarity[within], full)


def _frame(lists: _Lists, left: Items, right: Items) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "left_id": left.rows["id"].gather(lists.i),
            "right_id": right.rows["id"].gather(lists.j),
            "similarity": lists.similarity,
        },
        schema=SCHEMA,
    )


def _positions(cached: pl.DataFrame, keys: pl.DataFrame) -> Indices:
    """The current position of each cached row, (n,); -1 if it is gone or has another image."""
    joined = cached.join(
        keys.with_row_index("position"), on=keys.columns, how="left", maintain_order="left"
    )
    positions: Indices = joined["position"].cast(pl.Int64).fill_null(-1).to_numpy()
    return positions


def _without_position(positions: Indices, count: int) -> NDArray[np.bool_]:
    """Which of `count` current rows are not among the positions, (count,)."""
    mask = np.ones(count, dtype=bool)
    mask[positions[positions >= 0]] = False
    return mask


def _rows_of(ids: pl.Series, keys: pl.DataFrame) -> Indices:
    """The row numbers (n,) of ids among the keys."""
    joined = ids.to_frame("id").join(
        keys.select("id").with_row_index("row"), on="id", how="left", maintain_order="left"
    )
    rows: Indices = joined["row"].cast(pl.Int64).to_numpy()
    return rows
