"""Training of inverted lists: spherical k-means over rows of both sides of a join."""

from __future__ import annotations

import math

import numpy as np

from imgsim_assets.similarity.approximate.lists import MAX_LISTS, InvertedLists
from imgsim_assets.similarity.cosine import Floats, Indices
from imgsim_assets.similarity.threads import worker_count
from imgsim_assets.similarity.vector_blocks import VectorBlocks

# The number of lists, as a multiple of the root of the number of rows.
_LISTS_PER_ROOT = 4
# Rows that a list has at least on average, and those of them that its centroid is trained on.
_MIN_ROWS_PER_LIST = 32
_TRAINING_ROWS_PER_LIST = 48
_ITERATIONS = 8
_SEED = 1


def trained_lists(left: VectorBlocks, right: VectorBlocks) -> InvertedLists:
    """Lists for a join; all of them are probed until `nprobe` is set.

    Args:
        left: the left rows, (n, d) unit rows.
        right: the right rows, (m, d); the same object where a set is joined with itself.
    """
    count = list_count(len(right))
    size = count * _TRAINING_ROWS_PER_LIST
    if left is right:
        rows = right.rows(_at_intervals(len(right), size))
    else:
        parts = [side.rows(_at_intervals(len(side), size // 2)) for side in (left, right)]
        rows = np.concatenate([part for part in parts if len(part)])
    centroids = _trained_centroids(rows, count)
    return InvertedLists(centroids, len(centroids))


def list_count(rows: int) -> int:
    """How many lists a number of rows is divided into: it grows with their root."""
    return max(1, min(_LISTS_PER_ROOT * math.isqrt(rows), rows // _MIN_ROWS_PER_LIST, MAX_LISTS))


def _at_intervals(count: int, size: int) -> Indices:
    """At most `size` of `count` row numbers, at equal intervals."""
    size = max(1, min(size, count))
    return np.linspace(0, count - 1, size).astype(np.int64) if count else np.empty(0, np.int64)


def _trained_centroids(rows: Floats, count: int) -> Floats:
    """At most `count` different unit centroids (l, d), so ordered that most neighbors are near."""
    if count == 1:
        return rows[:1]
    centroids = np.unique(_spherical_kmeans(rows, count), axis=0)
    coarse = _spherical_kmeans(centroids, math.isqrt(len(centroids)))
    return centroids[np.argsort(np.argmax(centroids @ coarse.T, axis=1), kind="stable")]


def _spherical_kmeans(rows: Floats, count: int) -> Floats:
    """At most `count` unit centroids of unit rows."""
    import faiss

    kmeans = faiss.Kmeans(
        rows.shape[1],
        count,
        niter=_ITERATIONS,
        seed=_SEED,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(worker_count())
    try:
        kmeans.train(rows)
    finally:
        faiss.omp_set_num_threads(threads)
    centroids = np.asarray(kmeans.centroids, dtype=np.float32).reshape(-1, rows.shape[1])
    lengths = np.linalg.norm(centroids.astype(np.float64), axis=1, keepdims=True)
    is_centroid = np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
    unit: Floats = (centroids[is_centroid] / lengths[is_centroid]).astype(np.float32)
    return unit
