"""A join by blocks: left rows in batches, each with the right rows block by block.

Of the vectors only a batch and a block are in memory. The results have the same bits as those of
one join of all rows, since a cosine does not depend on what is computed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.items import VALUE
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.join_side import JoinSide
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.knn import Nearest
from imgsim_assets.similarity.references import References
from imgsim_assets.similarity.row_pairs import Pairs, pairs_within, row_pairs


class Lists(NamedTuple):
    """Pairs of row numbers, by left row, falling similarity and right row.

    `truncated` (n,) says of each left row whether its list was truncated.
    """

    i: Indices
    j: Indices
    similarity: Doubles
    truncated: NDArray[np.bool_]

    @classmethod
    def none(cls, rows: int) -> Lists:
        """The lists of left rows without any pair."""
        empty = np.empty(0, np.int64)
        return cls(empty, empty, np.empty(0), np.zeros(rows, dtype=bool))

    @classmethod
    def of_batches(cls, batches: Sequence[tuple[Indices, Lists]]) -> Lists:
        """The lists of all left rows, from those of batches with the numbers of their rows."""
        parts = [(rows[of.i], of.j, of.similarity) for rows, of in batches]
        i, j, similarity = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        truncated = np.empty(sum(len(rows) for rows, _ in batches), dtype=bool)
        for rows, of in batches:
            truncated[rows] = of.truncated
        if (np.diff(i) < 0).any():
            order = np.argsort(i, kind="stable")
            i, j, similarity = i[order], j[order], similarity[order]
        return cls(i, j, similarity, truncated)

    def of_rows(self, left: Indices, right: Indices | None = None) -> NumberedLists:
        """The same lists with other row numbers: of `left` (n,), and of `right`, ascending."""
        j = self.j if right is None else right[self.j]
        return NumberedLists(left[self.i], j, self.similarity, left[self.truncated])

    @classmethod
    def of_block(cls, found: Sequence[NumberedLists], start: int, stop: int) -> Lists:
        """The lists of the left rows from `start` to `stop`, numbered from 0, each in one part."""
        truncated = np.zeros(stop - start, dtype=bool)
        parts = []
        for lists in found:
            part = slice(*np.searchsorted(lists.i, [start, stop]).tolist())
            parts.append((lists.i[part] - start, lists.j[part], lists.similarity[part]))
            rows = lists.truncated
            truncated[rows[(rows >= start) & (rows < stop)] - start] = True
        i, j, similarity = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if len(parts) > 1:
            order = np.argsort(i, kind="stable")
            i, j, similarity = i[order], j[order], similarity[order]
        return cls(i, j, similarity, truncated)


class NumberedLists(NamedTuple):
    """Lists of some of the rows of a side; `truncated` are the numbers of rows, ascending."""

    i: Indices
    j: Indices
    similarity: Doubles
    truncated: Indices


def join(left: JoinSide, right: JoinSide | References, spec: JoinSpec, minimum: Doubles) -> Lists:
    """The lists of the left rows, of pairs at or above a minimum.

    Args:
        left: the rows that get a list each.
        right: the rows that are searched; `max_images` is that of all rows of the side. References
            serve several calls.
        spec: k, and whether an item is its own neighbor.
        minimum: (n,) the minimum cosine of each left row; without k it is the same for all.
    """
    if not len(left) or not len(right):
        return Lists.none(len(left))
    references = right if isinstance(right, References) else References(right)
    parts = []
    for rows, batch in left.batches():
        of_batch = _Batch(batch, minimum[rows], len(left))
        parts.append((rows, _of_batch(of_batch, references, spec)))
    return Lists.of_batches(parts)


class _Batch(NamedTuple):
    """Left rows with their minima (n,), of `total` rows."""

    side: JoinSide
    minimum: Doubles
    total: int


def _of_batch(batch: _Batch, references: References, spec: JoinSpec) -> Lists:
    left, right = batch.side, references.side
    k = spec.search_depth(right.max_images)
    if left.value is None or right.value is None or references.is_single:
        i, j, similarity = _pairs(batch, references, k)
    else:
        # Of the rows of other values no vectors are read.
        rows = np.flatnonzero(right.value.is_in(left.value.unique().implode()).to_numpy())
        i, j, similarity = _pairs(batch, references.take(rows), k)
        j = rows[j]
    return kept_lists((i, j, similarity), left, right, spec)


def kept_lists(pairs: Pairs, left: JoinSide, right: JoinSide, spec: JoinSpec) -> Lists:
    """The lists that are kept of pairs of left and right rows, in order.

    Args:
        pairs: the nearest right rows of each left row, as many as `JoinSpec.search_depth` says.
        left: the left rows, a batch.
        right: the right rows.
        spec: k, and whether an item is its own neighbor.
    """
    i, j, similarity = pairs
    depth = spec.depth(right.max_images)
    if spec.exclude_self:
        others = left.item[i] != right.item[j]
        i, j, similarity = i[others], j[others], similarity[others]
    if depth is None:
        return Lists(i, j, similarity, np.zeros(len(left), dtype=bool))
    start = np.searchsorted(i, np.arange(len(left)))
    within = np.arange(len(i)) - start[i] < depth
    # A full list may have been truncated.
    full = np.diff(np.append(start, len(i))) >= depth
    return Lists(i[within], j[within], similarity[within], full)


def _pairs(batch: _Batch, references: References, k: int | None) -> Pairs:
    """The pairs of a batch with all right rows, by left row, falling cosine and right row."""
    queries = JoinInput.of(batch.side.vectors.all(), "vectors")
    references.prefilter.work = queries.dim * len(references) * batch.total
    nearest = Nearest.none(k, batch.minimum) if k is not None else None
    found: list[Pairs] = []
    for rows, block in references.blocks():
        # What the blocks before have found makes the search of this one faster.
        cutoffs = batch.minimum if nearest is None else nearest.cutoffs
        inputs = InputPair.of(queries, block)
        of_block = _pairs_with(batch.side, inputs, references, rows, k, cutoffs)
        if len(rows) == len(references):
            return of_block
        if nearest is None:
            found.append(of_block)
        else:
            nearest.insert(*of_block)
    if nearest is not None:
        i, rank = np.nonzero(nearest.index >= 0)
        return i, nearest.index[i, rank], nearest.similarity[i, rank]
    none = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    i, j, cosines = (np.concatenate(arrays) for arrays in zip(none, *found, strict=True))
    order = np.lexsort((j, -cosines, i))
    return i[order], j[order], cosines[order]


def _pairs_with(
    left: JoinSide,
    inputs: InputPair,
    references: References,
    rows: Indices,
    k: int | None,
    minimum: Doubles,
) -> Pairs:
    """The pairs of a batch with a block of the right rows: those of some numbers (p,)."""
    right = references.side
    if left.value is None or right.value is None:
        i, j, cosines = row_pairs(inputs, k, minimum, references.prefilter)
        return i, rows[j], cosines
    values = (_with_values(left.value), _with_values(right.value.gather(rows)))
    i, j, cosines = pairs_within(inputs.left, inputs.right, *values, k, minimum)
    return i, rows[j], cosines


def _with_values(values: pl.Series) -> pl.DataFrame:
    """The numbers of rows, and their values."""
    return pl.DataFrame({"row": np.arange(len(values)), VALUE: values})
