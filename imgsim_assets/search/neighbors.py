"""Exact nearest neighbors of rows: the k nearest, those within a radius, or both.

Unit vectors use the exact cosine joins of `similarity`. Other vectors, which only a user's own
features can be, are compared by Euclidean distance in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.errors import SettingsError
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, distances
from imgsim_assets.similarity.join import threshold_join, top_k

Metric = Literal["euclidean", "cosine"]
Compare = Literal["any", "first", "mean_best"]

_BLOCK_BYTES = 64 << 20
# Rows that were normalized in float32 are this close to length 1.
_UNIT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class SearchParams:
    """At most `k` neighbors (None for no limit) within `radius` (inclusive; None for no limit).

    `compare` says which images of an item count.
    """

    k: int | None = 5
    radius: float | None = None
    compare: Compare = "any"

    def __post_init__(self) -> None:
        if self.compare not in get_args(Compare):
            raise SettingsError(f"compare is {self.compare!r}; use 'any', 'first' or 'mean_best'")
        if self.compare == "mean_best" and self.radius is None:
            raise SettingsError(
                "compare: mean_best needs a radius, within which pairs of items are scored"
            )
        if self.k is not None and (isinstance(self.k, bool) or not isinstance(self.k, int)):
            raise SettingsError(f"k is {self.k!r}; give an integer, or None for no limit")
        if self.k is not None and self.k < 1:
            raise SettingsError(f"k is {self.k}; it must be at least 1, or None for no limit")
        if self.radius is not None and not self.radius >= 0:
            raise SettingsError(
                f"radius is {self.radius}; it must be 0 or more, or None for no limit"
            )


@dataclass(frozen=True)
class Neighbors:
    """Pairs of a query and a neighbor, sorted by query, falling score and reference.

    Attributes:
        query: (n,) int64, row of the query.
        reference: (n,) int64, row of the neighbor among the references.
        distance: (n,) float64.
        score: (n,) float64, larger for nearer neighbors: the cosine, else the negative distance.
            Two cosines may have the same distance, which is rounded.
    """

    query: Indices
    reference: Indices
    distance: Doubles
    score: Doubles

    def filter(self, mask: NDArray[np.bool_]) -> Neighbors:
        """The pairs where the mask (n,) is True."""
        return Neighbors(
            self.query[mask], self.reference[mask], self.distance[mask], self.score[mask]
        )

    def head(self, k: int) -> Neighbors:
        """The first k pairs of every query."""
        starts = np.searchsorted(self.query, self.query)
        return self.filter(np.arange(len(self.query)) - starts < k)


def normalize(vectors: Floats, argument: str) -> Floats:
    """Divide vectors (n, d) by their lengths; SettingsError for a zero vector."""
    lengths = _lengths(vectors)
    if len(zeros := np.flatnonzero(lengths == 0)):
        raise SettingsError(
            f"{argument}: the vector of row {zeros[0]} is zero and has no cosine; omit it, or "
            "use metric='euclidean'"
        )
    # Unit rows stay unchanged: dividing again would change their last bits.
    divisors = np.where(np.abs(lengths - 1) <= _UNIT_TOLERANCE, 1.0, lengths)
    rows: Floats = (vectors.astype(np.float64) / divisors[:, None]).astype(np.float32)
    return rows


def is_normalized(vectors: Floats) -> bool:
    """Whether every vector has length 1."""
    return bool((np.abs(_lengths(vectors) - 1) <= _UNIT_TOLERANCE).all())


def _lengths(vectors: Floats) -> Doubles:
    lengths: Doubles = np.sqrt(np.square(vectors.astype(np.float64)).sum(axis=1))
    return lengths


def find_neighbors(
    queries: Floats, references: Floats, metric: Metric, params: SearchParams
) -> Neighbors:
    """Find the references nearest to each query.

    Equal vectors have distance 0.0 exactly; ties are broken by the row of the reference.

    Args:
        queries: (n, d) float32, finite; unit vectors for "cosine".
        references: (m, d) float32, finite; unit vectors for "cosine".
        metric: "euclidean", or "cosine" for 1 - cosine.
        params: the limits.
    """
    if not len(queries) or not len(references):
        empty = np.empty(0, np.int64)
        return Neighbors(empty, empty, np.empty(0), np.empty(0))
    if metric == "cosine" or (is_normalized(queries) and is_normalized(references)):
        neighbors = _cosine_knn(queries, references, metric, params)
    else:
        neighbors = _euclidean_knn(queries, references, params)
    if params.radius is None:
        return neighbors
    return neighbors.filter(neighbors.distance <= params.radius)


def _cosine_knn(
    queries: Floats, references: Floats, metric: Metric, params: SearchParams
) -> Neighbors:
    if params.k is None:
        cutoff = -1.0 if params.radius is None else _least_cosine(params.radius, metric)
        i, j, cosine = threshold_join(queries, references, cutoff)
    else:
        indices, cosines = top_k(queries, references, min(params.k, len(references)))
        i, rank = np.nonzero(indices >= 0)
        j, cosine = indices[i, rank], cosines[i, rank]
    return Neighbors(i, j, distances(cosine) if metric == "euclidean" else 1.0 - cosine, cosine)


def _least_cosine(radius: float, metric: Metric) -> float:
    """A lower bound of the cosines within a radius, however their last digits are rounded."""
    drop = radius if metric == "cosine" else radius * radius / 2
    return max(-1.0, 1.0 - drop - 1e-12)


def _euclidean_knn(queries: Floats, references: Floats, params: SearchParams) -> Neighbors:
    b = references.astype(np.float64)
    b_squares = np.square(b).sum(axis=1)
    step = max(1, _BLOCK_BYTES // (8 * len(b)))
    blocks = []
    for start in range(0, len(queries), step):
        a = queries[start : start + step].astype(np.float64)
        a_squares = np.square(a).sum(axis=1)
        squares = a_squares[:, None] + b_squares - 2.0 * (a @ b.T)
        i, j = _candidates(squares, _rounding_error(a_squares, b_squares, a.shape[1]), params)
        i = i + start
        blocks.append((i, j, _pairwise_distance(queries, references, i, j)))
    i, j, distance = (np.concatenate(column) for column in zip(*blocks, strict=True))
    order = np.lexsort((j, distance, i))
    neighbors = Neighbors(i[order], j[order], distance[order], -distance[order])
    return neighbors if params.k is None else neighbors.head(params.k)


def _rounding_error(a_squares: Doubles, b_squares: Doubles, dim: int) -> float:
    """A bound of the error of a squared distance that was computed from the product."""
    return float((2 * dim + 8) * np.finfo(np.float64).eps * (a_squares.max() + b_squares.max()))


def _candidates(
    squares: NDArray[np.float64], error: float, params: SearchParams
) -> tuple[Indices, Indices]:
    """Pairs that may be among the k nearest of their row, or within the radius."""
    cutoffs = np.full(len(squares), np.inf)
    if params.k is not None and params.k < squares.shape[1]:
        cutoffs = np.partition(squares, params.k - 1, axis=1)[:, params.k - 1] + 2 * error
    elif params.radius is not None:
        cutoffs[:] = params.radius * params.radius * (1 + 1e-12) + error
    i, j = np.nonzero(squares <= cutoffs[:, None])
    return i.astype(np.int64), j.astype(np.int64)


def _pairwise_distance(queries: Floats, references: Floats, i: Indices, j: Indices) -> Doubles:
    """Euclidean distances of pairs from their differences: 0.0 for equal vectors."""
    distance = np.empty(len(i))
    step = max(1, _BLOCK_BYTES // (16 * queries.shape[1]))
    for start in range(0, len(i), step):
        block = slice(start, start + step)
        difference = queries[i[block]].astype(np.float64) - references[j[block]]
        distance[block] = np.sqrt(np.square(difference).sum(axis=1))
    return distance
