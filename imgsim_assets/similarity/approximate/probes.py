"""How many lists a row must probe to find the pairs of an exact join."""

from __future__ import annotations

import numpy as np

from imgsim_assets.similarity.approximate.lists import InvertedLists, Numbers
from imgsim_assets.similarity.cosine import Indices, UnitRows, pair_cosines, unit_rows
from imgsim_assets.similarity.threads import map_tasks
from imgsim_assets.similarity.vector_blocks import VectorBlocks

# Of the pairs that may be missed, this fraction is left to the difference between samples.
_RESERVE = 0.25
_ROWS_PER_TASK = 64
# Parts of a block that rows are read in.
_PARTS_PER_BLOCK = 4


def enough_probes(ranks: Indices, min_recall: float) -> int:
    """The smallest number of probes that finds enough of the pairs of a sample.

    Args:
        ranks: (p,) of each pair, as of `list_ranks`.
        min_recall: the fraction of pairs that a result must find. A little more of this sample
            is found, since another sample may be harder.
    """
    target = min_recall + _RESERVE * (1 - min_recall)
    required = int(np.ceil(target * len(ranks)))
    return int(np.sort(ranks)[required - 1]) + 1 if required else 1


def list_ranks(
    lists: InvertedLists, left: VectorBlocks, right: VectorBlocks, i: Indices, j: Indices
) -> Indices:
    """The position of the right row's list among those nearest to the left row, from 0, (p,).

    Args:
        lists: the lists.
        left: the left rows.
        right: the right rows.
        i: (p,) row numbers of left.
        j: (p,) row numbers of right.
    """
    (queries, query), (references, reference) = (
        np.unique(numbers, return_inverse=True) for numbers in (i, j)
    )
    own = _own_lists(lists, right, references)[reference]
    rows = unit_rows(left.rows(queries), "vectors")
    order = np.argsort(query, kind="stable")
    ranks = np.empty(len(i), dtype=np.int64)

    def fill(start: int) -> None:
        part = slice(start, start + _ROWS_PER_TASK)
        rank = _ranks(lists.unit, UnitRows(rows.rows[part], rows.squares[part], rows.deviation))
        first, last = np.searchsorted(query[order], [start, start + len(rank)])
        pairs = order[first:last]
        ranks[pairs] = rank[query[pairs] - start, own[pairs]]

    for _ in map_tasks(fill, range(0, len(queries), _ROWS_PER_TASK)):
        pass
    return ranks


def _own_lists(lists: InvertedLists, rows: VectorBlocks, numbers: Indices) -> Numbers:
    """The list of each of some rows (p,), of which a part is in memory at a time."""
    own = np.empty(len(numbers), np.uint16)
    size = max(1, rows.block_rows // _PARTS_PER_BLOCK)
    for start in range(0, len(numbers), size):
        some = rows.rows(numbers[start : start + size])
        own[start : start + size] = lists.own(unit_rows(some, "vectors"))
    return own


def _ranks(centroids: UnitRows, rows: UnitRows) -> Indices:
    """The rank of each centroid by its cosine with each row, ties by number, (n, l)."""
    shape = len(rows.rows), len(centroids.rows)
    i, j = np.indices(shape).reshape(2, -1)
    squares = rows.squares, centroids.squares
    cosines = pair_cosines(rows.rows, centroids.rows, i, j, squares=squares).reshape(shape)
    ranks = np.empty(shape, dtype=np.int64)
    order = np.argsort(-cosines, axis=1, kind="stable")
    np.put_along_axis(ranks, order, np.arange(shape[1])[None, :], axis=1)
    return ranks
