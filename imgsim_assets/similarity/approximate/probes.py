"""How many lists a row must probe to find the pairs of an exact join."""

from __future__ import annotations

import numpy as np

from imgsim_assets.similarity.approximate.lists import InvertedLists
from imgsim_assets.similarity.cosine import Indices, pair_cosines
from imgsim_assets.similarity.join_input import JoinInput

# Of the pairs that may be missed, this fraction is left to the difference between samples.
_RESERVE = 0.25
_ROWS_AT_ONCE = 256


def enough_probes(ranks: Indices, min_recall: float) -> int:
    """The smallest number of probes that finds enough of the pairs of a sample.

    Args:
        ranks: (p,) of each pair, as of `list_ranks`.
        min_recall: the fraction of pairs that a result must find. A little more of the sample is
            found, since another sample may be harder.
    """
    target = min_recall + _RESERVE * (1 - min_recall)
    required = int(np.ceil(target * len(ranks)))
    return int(np.sort(ranks)[required - 1]) + 1 if required else 1


def list_ranks(
    lists: InvertedLists, left: JoinInput, right: JoinInput, i: Indices, j: Indices
) -> Indices:
    """The position of the right row's list among those nearest to the left row, from 0, (p,).

    Args:
        lists: the lists.
        left: the left rows, without duplicates.
        right: the right rows, without duplicates.
        i: (p,) numbers of left rows.
        j: (p,) numbers of right rows.
    """
    numbers = np.arange(len(lists))
    own = lists.assign(right, probed=False).own[j]
    ranks = np.empty(len(i), dtype=np.int64)
    for start in range(0, len(left), _ROWS_AT_ONCE):
        rows, squares = left.block(start, start + _ROWS_AT_ONCE)
        a, b = (each.ravel() for each in np.indices((len(rows), len(lists))))
        cosines = pair_cosines(
            rows, lists.unit.rows, a, b, squares=(squares, lists.unit.squares)
        ).reshape(len(rows), -1)
        rank = np.empty(cosines.shape, dtype=np.int64)
        order = np.argsort(-cosines, axis=1, kind="stable")
        np.put_along_axis(rank, order, np.broadcast_to(numbers, order.shape), axis=1)
        of_rows = np.flatnonzero((i >= start) & (i < start + len(rows)))
        ranks[of_rows] = rank[i[of_rows] - start, own[of_rows]]
    return ranks
