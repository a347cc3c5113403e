"""Spherical k-means of unit rows that are read in blocks.

FAISS trains on rows that are in memory at once. Here the assignment of a row is decided by float64
cosines, and sums are added in an order that no block decides, so that the centroids are the same
whatever the memory budget and the number of threads.
"""

from __future__ import annotations

import numpy as np

from imgsim_assets.similarity.approximate.lists import InvertedLists, Numbers
from imgsim_assets.similarity.cosine import Doubles, Floats, unit_rows
from imgsim_assets.similarity.unique_rows import find_unique_in_blocks
from imgsim_assets.similarity.vector_blocks import VectorBlocks

_ITERATIONS = 8
_SEED = 1
# Bytes of rows whose sum is added to the sums of the rows before them.
_SUMMED_BYTES = 4 << 20


def spherical_kmeans(rows: VectorBlocks, count: int) -> Floats:
    """Unit centroids (l, d) of unit rows (n, d): at most `count`, each with rows of its own.

    Args:
        rows: the rows, at least one.
        count: how many of the rows, all of them different, the centroids begin as.
    """
    different = find_unique_in_blocks(rows).first
    random = np.random.default_rng(_SEED)
    first = random.choice(different, min(count, len(different)), replace=False)
    centroids = _unit(rows.rows(first).astype(np.float64))
    for _ in range(_ITERATIONS):
        centroids = _unit(_sums(rows, InvertedLists(centroids, nprobe=0)))
    return centroids


def _sums(rows: VectorBlocks, lists: InvertedLists) -> Doubles:
    """The sum of the rows of each list, (l, d)."""
    sums = np.zeros(lists.centroids.shape)
    summed = max(1, _SUMMED_BYTES // (4 * rows.dim))
    size = max(1, rows.block_rows // summed) * summed
    for start in range(0, len(rows), size):
        _add_block(sums, rows.read(start, start + size), lists, summed)
    return sums


def _add_block(sums: Doubles, rows: Floats, lists: InvertedLists, summed: int) -> None:
    """Add rows (n, d) to the sums of their lists, so many at once."""
    unit = unit_rows(rows, "vectors")
    own = lists.own(unit)
    for first in range(0, len(own), summed):
        part = slice(first, first + summed)
        _add(sums, unit.rows[part], own[part])


def _add(sums: Doubles, rows: Floats, own: Numbers) -> None:
    """Add rows (n, d) to the sums of their lists (n,)."""
    order = np.argsort(own, kind="stable")
    first = np.flatnonzero(np.diff(own[order].astype(np.int64), prepend=-1))
    sums[own[order[first]]] += np.add.reduceat(rows[order], first, axis=0, dtype=np.float64)


def _unit(sums: Doubles) -> Floats:
    """The directions of sums, but for those of no length."""
    lengths = np.linalg.norm(sums, axis=1)
    has_direction = lengths > 0
    unit: Floats = (sums[has_direction] / lengths[has_direction, None]).astype(np.float32)
    return unit
