"""The joins of `row_pairs.py` over candidate pairs only, decided by the same float64 cosines."""

from __future__ import annotations

import numpy as np

from imgsim_assets.similarity.approximate.lists import InvertedLists
from imgsim_assets.similarity.approximate.scan import ListTile, RowGroup, map_row_groups
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.join_input import InputPair
from imgsim_assets.similarity.knn import CandidateBuffer, Nearest
from imgsim_assets.similarity.tiles import MEMORY_BUDGET, max_candidates, rounded_down
from imgsim_assets.similarity.unique_rows import expand_duplicates

# Rows of a tile that are partitioned at once, to stay in the cache.
_ROWS_PER_PARTITION = 64


def nearest_candidates(
    inputs: InputPair,
    lists: InvertedLists,
    k: int,
    min_similarity: Doubles,
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> tuple[Indices, Doubles]:
    """`knn.nearest` of candidate pairs: the k nearest candidates of each left row.

    Args:
        inputs: the queries and references.
        lists: decide which pairs are candidates.
        k: how many neighbors.
        min_similarity: (n,) the minimum cosine of each query.
        memory_budget: bytes for candidates.
    """
    every = Nearest.none(k, inputs.left.unique.minimum(min_similarity))
    max_pairs = max_candidates(memory_budget)

    def search(group: RowGroup) -> None:
        found = Nearest.none(k, every.min_similarity[group.positions])
        rows = slice(0, len(group.positions))
        buffer = CandidateBuffer(group.inputs, found, rows, max_pairs)
        for tile in group.tiles:
            cutoffs = buffer.cutoffs[tile.rows]
            if tile.is_first and tile.products.shape[1] >= k:
                cutoffs = np.maximum(cutoffs, _kth_products(tile, k) - inputs.error)
            buffer.push(*tile.hits(rounded_down(cutoffs - inputs.error)[:, None]))
        buffer.flush()
        every.index[group.positions] = found.index
        every.similarity[group.positions] = found.similarity

    for _ in map_row_groups(inputs, lists, search):
        pass
    return every.expand(inputs.left, inputs.right.unique, min_similarity, max_pairs)


def candidates_above(
    inputs: InputPair, lists: InvertedLists, threshold: float
) -> tuple[Indices, Indices, Doubles]:
    """`join.pairs_above` of candidate pairs."""
    cutoff = np.float32(threshold - inputs.error)

    def matches(group: RowGroup) -> list[tuple[Indices, Indices, Doubles]]:
        found = []
        for tile in group.tiles:
            i, j, _ = tile.hits(cutoff)
            cosines = group.inputs.cosines(i, j)
            within = cosines >= threshold
            found.append((group.positions[i[within]], j[within], cosines[within]))
        return found

    pairs = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for of_group in map_row_groups(inputs, lists, matches):
        pairs += of_group
    i, j, similarity = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    i, j, similarity = expand_duplicates(i, j, similarity, inputs.left.unique, inputs.right.unique)
    order = np.lexsort((j, -similarity, i))
    return i[order], j[order], similarity[order]


def _kth_products(tile: ListTile, k: int) -> Doubles:
    """For each row of a tile, the k-th greatest product, (r,)."""
    width = tile.products.shape[1]
    starts = range(0, len(tile.products), _ROWS_PER_PARTITION)
    parts = [tile.products[start : start + _ROWS_PER_PARTITION] for start in starts]
    kth = [np.partition(part, width - k, axis=1)[:, width - k] for part in parts]
    return np.concatenate(kth).astype(np.float64)
