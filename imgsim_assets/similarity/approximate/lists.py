"""Inverted lists: the rows of a join by their nearest of some centroids.

A pair of rows is a candidate if the list of the right row, that of its nearest centroid, is among
the `nprobe` lists nearest to the left row. So two rows and the centroids decide it, whatever other
rows there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import (
    Floats,
    Indices,
    UnitRows,
    pair_cosines,
    product_error,
    unit_rows,
)
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.threads import parallel_map, worker_count

# Numbers of lists.
Numbers = NDArray[np.uint16]
MAX_LISTS = 1 << 16
# The number of lists, as a multiple of the root of the number of rows.
_LISTS_PER_ROOT = 4
# Rows that a list has at least on average, and those of them that its centroid is trained on.
_MIN_ROWS_PER_LIST = 32
_TRAINING_ROWS_PER_LIST = 48
_ITERATIONS = 8
_SEED = 1
# Rows that are compared with the centroids at once.
_ROWS_PER_TASK = 512


@dataclass(frozen=True, eq=False)
class InvertedLists:
    """The centroids (l, d) of the lists, and how many lists a left row is compared with."""

    centroids: Floats
    nprobe: int

    def __len__(self) -> int:
        return len(self.centroids)

    @classmethod
    def train(cls, inputs: InputPair) -> InvertedLists:
        """Lists for a join, with centroids by spherical k-means over rows of both sides.

        All lists are probed until `nprobe` is set.
        """
        count = list_count(len(inputs.right))
        centroids = _trained_centroids(_training_rows(inputs, count), count)
        return cls(centroids, len(centroids))

    def with_nprobe(self, nprobe: int) -> InvertedLists:
        """The same lists with another number of probes."""
        return replace(self, nprobe=max(1, min(nprobe, len(self))))

    @cached_property
    def unit(self) -> UnitRows:
        """The centroids, validated."""
        return unit_rows(self.centroids, "centroids")

    def assign(self, side: JoinInput, *, probed: bool) -> RowLists:
        """The lists of the unique rows of an input, with those that they probe if asked for.

        The float64 cosines decide, so that the lists of a row do not depend on other rows.
        """
        own = np.empty(len(side), dtype=np.uint16)
        probes = np.empty((len(side), self.nprobe if probed else 0), dtype=np.uint16)

        def fill(start: int) -> None:
            rows, squares = side.block(start, start + _ROWS_PER_TASK)
            part = slice(start, start + len(rows))
            near = _NearCentroids(UnitRows(rows, squares, side.unit.deviation), self.unit)
            own[part] = near.first(1)[:, 0]
            if probed:
                probes[part] = near.first(self.nprobe)

        for _ in parallel_map(fill, range(0, len(side), _ROWS_PER_TASK)):
            pass
        return RowLists(own, probes)


class RowLists(NamedTuple):
    """The list of each row, (n,), and the lists that it probes, (n, nprobe), ascending."""

    own: Numbers
    probed: Numbers


def list_count(rows: int) -> int:
    """How many lists a number of rows is divided into: it grows with their root."""
    return max(1, min(_LISTS_PER_ROOT * math.isqrt(rows), rows // _MIN_ROWS_PER_LIST, MAX_LISTS))


def _training_rows(inputs: InputPair, lists: int) -> Floats:
    """Rows at equal intervals, as many of each side; of one side that is joined with itself."""
    count = lists * _TRAINING_ROWS_PER_LIST
    if inputs.left.unit.rows is inputs.right.unit.rows:
        return inputs.right.sample(count)[0]
    return np.concatenate([side.sample(count // 2)[0] for side in (inputs.left, inputs.right)])


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


class _NearCentroids:
    """The nearest centroids of some rows."""

    def __init__(self, rows: UnitRows, centroids: UnitRows) -> None:
        self._rows, self._centroids = rows, centroids
        self._products: Floats = rows.rows @ centroids.rows.T
        deviation = max(rows.deviation, centroids.deviation)
        # A product is off by the error at most, so further away than twice of it the order is sure.
        self._margin = np.float32(2 * product_error(rows.rows.shape[1], deviation))

    def first(self, count: int) -> Numbers:
        """Those of greatest cosine for each row, ties by number: (n, count), ascending."""
        products, every = self._products, self._products.shape[1]
        if count >= every:
            return np.broadcast_to(np.arange(every, dtype=np.uint16), products.shape)
        kth = np.partition(products, every - count, axis=1)[:, every - count, None]
        is_chosen = products > kth + self._margin
        is_open = (products >= kth - self._margin) & ~is_chosen
        missing = count - np.count_nonzero(is_chosen, axis=1)
        is_tied = np.count_nonzero(is_open, axis=1) > missing
        is_chosen |= is_open & ~is_tied[:, None]
        self._choose(is_chosen, is_open & is_tied[:, None], missing)
        numbers: Numbers = np.nonzero(is_chosen)[1].astype(np.uint16).reshape(-1, count)
        return numbers

    def _choose(
        self, is_chosen: NDArray[np.bool_], is_open: NDArray[np.bool_], missing: Indices
    ) -> None:
        """Choose as many of the open centroids as are missing, by their float64 cosines."""
        i, j = np.nonzero(is_open)
        squares = self._rows.squares, self._centroids.squares
        cosines = pair_cosines(self._rows.rows, self._centroids.rows, i, j, squares=squares)
        order = np.lexsort((j, -cosines, i))
        i, j = i[order], j[order]
        is_within = np.arange(len(i)) - np.searchsorted(i, i) < missing[i]
        is_chosen[i[is_within], j[is_within]] = True
