"""The cached neighbor lists of a block of left rows: what of them is still valid, and new pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.similarity.block_join import Lists
from imgsim_assets.similarity.cosine import Doubles, Indices

SCHEMA = {"left_id": pl.String, "right_id": pl.String, "similarity": pl.Float64}
# Whether a list was not truncated.
COMPLETE = "complete"
LIST_SCHEMA = {**SCHEMA, COMPLETE: pl.Boolean}


@dataclass(frozen=True)
class ReusableLists:
    """Cached pairs that are still valid: those of unchanged rows, in their order.

    Attributes:
        ids: (n,) keys of the left rows of the block.
        cached: the lists as they were cached.
        pairs: the pairs that are still valid, see SCHEMA.
        lengths: (n,) the length of the list of each left row.
        truncated: (n,) whether pairs are missing behind it.
        recompute: (n,) which left rows have no list to reuse.
        is_cached: whether there are cached lists of the block.
        is_unchanged: whether all cached pairs are valid and all left rows have a list.
    """

    ids: pl.Series
    cached: pl.DataFrame
    pairs: pl.DataFrame
    lengths: Indices
    truncated: NDArray[np.bool_]
    recompute: NDArray[np.bool_]
    is_cached: bool
    is_unchanged: bool

    @classmethod
    def none(cls, ids: pl.Series) -> ReusableLists:
        """Nothing can be reused."""
        empty = pl.DataFrame(schema=LIST_SCHEMA)
        count = len(ids)
        return cls(
            ids,
            empty,
            empty.select(list(SCHEMA)),
            np.zeros(count, np.int64),
            np.zeros(count, dtype=bool),
            np.ones(count, dtype=bool),
            is_cached=False,
            is_unchanged=False,
        )

    @classmethod
    def of(
        cls,
        ids: pl.Series,
        cached: pl.DataFrame,
        stays: NDArray[np.bool_],
        gone: pl.Series,
        min_length: int,
    ) -> ReusableLists:
        """What can be reused for the current rows.

        Args:
            ids: keys of the n left rows.
            cached: lists of these and other rows, see LIST_SCHEMA.
            stays: (n,) which left rows are the cached ones.
            gone: keys of right rows that are no longer there.
            min_length: a list that was truncated is recomputed when fewer of its pairs are left.
        """
        first = cached["left_id"].ne_missing(cached["left_id"].shift()).arg_true().to_numpy()
        # Positions rise from list to list, as both are sorted by id.
        position = _positions(cached["left_id"].gather(first), ids, stays)
        reused = position >= 0
        still_valid = np.ones(cached.height, dtype=bool)
        if len(gone):
            still_valid = ~cached["right_id"].is_in(gone.implode()).to_numpy()

        lengths, truncated = np.zeros(len(ids), np.int64), np.zeros(len(ids), dtype=bool)
        lengths[position[reused]] = np.add.reduceat(still_valid, first, dtype=np.int64)[reused]
        truncated[position[reused]] = ~cached[COMPLETE].gather(first).to_numpy()[reused]
        too_short = truncated & (lengths < min_length)
        lengths[too_short], truncated[too_short] = 0, False

        reused[reused] = ~too_short[position[reused]]
        still_valid &= np.repeat(reused, np.diff(np.append(first, cached.height)))
        recompute = ~stays | too_short
        pairs = cached.select(list(SCHEMA))
        all_valid = bool(still_valid.all())
        return cls(
            ids,
            cached,
            pairs if all_valid else pairs.filter(pl.Series(still_valid)),
            lengths,
            truncated,
            recompute,
            is_cached=True,
            is_unchanged=all_valid and not recompute.any(),
        )

    def cutoffs(self, threshold: float) -> Doubles:
        """The minimum similarity that a new pair of each list needs, (n,)."""
        cutoffs = np.full(len(self.lengths), threshold)
        last = np.cumsum(self.lengths) - 1
        cutoffs[self.truncated] = self.pairs["similarity"].gather(last[self.truncated]).to_numpy()
        return cutoffs

    def merged(self, new: Lists, depth: int | None, right_ids: pl.Series) -> pl.DataFrame:
        """The lists with new pairs, each truncated at `depth` and where pairs may be missing.

        `right_ids` are the keys of the right rows of the new pairs.
        """
        added = pl.DataFrame(
            {
                "left_id": self.ids.gather(new.i),
                "right_id": right_ids,
                "similarity": new.similarity,
            },
            schema=SCHEMA,
        )
        if not self.pairs.height:
            return added.with_columns(pl.Series(COMPLETE, ~new.truncated[new.i]))
        at = self._insert_positions(new, added["right_id"])
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
        both = pl.concat([self.pairs, added], rechunk=True)
        ordered = both.select(pl.all().gather(pl.Series(order, dtype=pl.get_index_type())))
        return ordered.with_columns(pl.Series(COMPLETE, np.repeat(~truncated, lengths)))

    def _insert_positions(self, new: Lists, added_ids: pl.Series) -> Indices:
        """Where each new pair belongs among the reused ones, by one bisection of all at once."""
        ends = np.append(0, np.cumsum(self.lengths))
        low, high = ends[new.i], ends[new.i + 1]
        similarity, ids = self.pairs["similarity"].to_numpy(), self.pairs["right_id"]
        while (searching := np.flatnonzero(low < high)).size:
            middle = (low[searching] + high[searching]) // 2
            reused, added = similarity[middle], new.similarity[searching]
            before = reused > added
            tied = np.flatnonzero(reused == added)
            before[tied] = (ids.gather(middle[tied]) < added_ids.gather(searching[tied])).to_numpy()
            low[searching[before]] = middle[before] + 1
            high[searching[~before]] = middle[~before]
        return low


def _positions(list_ids: pl.Series, ids: pl.Series, stays: NDArray[np.bool_]) -> Indices:
    """The row of each list (l,); -1 if its row is gone or has another image."""
    rows = pl.DataFrame({"id": ids, "row": np.arange(len(ids))}).filter(pl.Series(stays))
    joined = list_ids.alias("id").to_frame().join(rows, on="id", how="left", maintain_order="left")
    positions: Indices = joined["row"].fill_null(-1).to_numpy()
    return positions
