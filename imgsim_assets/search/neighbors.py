"""The nearest of a set of vectors: k of them, those within a radius, or both.

Unit vectors go through the exact join of cosines. Others, which only a person's own features
can be, are compared by their Euclidean distance in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.errors import SettingsError
from imgsim_assets.similarity.cosine import Doubles, Floats, Indices, distances
from imgsim_assets.similarity.join import radius_join, threshold_join, top_k

Metric = Literal["euclidean", "cosine"]

_BLOCK_BYTES = 64 << 20
# Rows that were normalized in float32 are this close to length 1.
_UNIT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class SearchParams:
    """What is asked: the `k` nearest (None for all) within `radius` (inclusive, None for any)."""

    k: int | None = 5
    radius: float | None = None

    def __post_init__(self) -> None:
        if self.k is not None and (isinstance(self.k, bool) or not isinstance(self.k, int)):
            raise SettingsError(f"k is {self.k!r}; give a whole number, or None for no limit")
        if self.k is not None and self.k < 1:
            raise SettingsError(f"k is {self.k}; it must be at least 1, or None for no limit")
        if self.radius is not None and not self.radius >= 0:
            raise SettingsError(f"radius is {self.radius}; it must be 0 or more, or None for any")


@dataclass(frozen=True)
class Neighbors:
    """Query rows, reference rows and distances, sorted by query, distance, reference."""

    query: Indices
    reference: Indices
    distance: Doubles

    def where(self, mask: NDArray[np.bool_]) -> Neighbors:
        """The pairs of a mask."""
        return Neighbors(self.query[mask], self.reference[mask], self.distance[mask])

    def first(self, k: int) -> Neighbors:
        """The first k pairs of every query."""
        starts = np.searchsorted(self.query, self.query)
        return self.where(np.arange(len(self.query)) - starts < k)


def normalize(vectors: Floats, argument: str) -> Floats:
    """The vectors divided by their lengths; SettingsError names a row without a direction."""
    lengths = np.sqrt(np.square(vectors.astype(np.float64)).sum(axis=1))
    if len(zero := np.flatnonzero(lengths == 0)):
        raise SettingsError(
            f"{argument}: the vector of row {zero[0]} is zero and has no cosine; leave it out, or "
            "use metric='euclidean'"
        )
    near = np.abs(lengths - 1) <= _UNIT_TOLERANCE
    # Unit rows stay as they are: dividing again would change their last bits.
    scaled = vectors.astype(np.float64) / np.where(near, 1.0, lengths)[:, None]
    rows: Floats = scaled.astype(np.float32)
    return rows


def is_normalized(vectors: Floats) -> bool:
    """Whether every vector has length 1."""
    lengths = np.sqrt(np.square(vectors.astype(np.float64)).sum(axis=1))
    return bool((np.abs(lengths - 1) <= _UNIT_TOLERANCE).all())


def find_neighbors(
    queries: Floats, references: Floats, metric: Metric, search: SearchParams
) -> Neighbors:
    """The references nearest to each query.

    Args:
        queries: (n, d) float32, finite; for "cosine" unit vectors.
        references: (m, d) float32 likewise.
        metric: "euclidean" (of the vectors as they are) or "cosine" (1 - cosine).
        search: how many, how far.

    Equal vectors have distance 0.0 exactly; of equally near references the one of the lower
    row comes first.
    """
    if not len(queries) or not len(references):
        nothing = np.empty(0, np.int64)
        return Neighbors(nothing, nothing, np.empty(0))
    if metric == "cosine" or (is_normalized(queries) and is_normalized(references)):
        found = _cosine_knn(queries, references, metric, search)
    else:
        found = _euclidean_knn(queries, references, search)
    if search.radius is None:
        return found
    return found.where(found.distance <= search.radius)


def _cosine_knn(
    queries: Floats, references: Floats, metric: Metric, search: SearchParams
) -> Neighbors:
    if search.k is None and search.radius is not None and metric == "euclidean":
        return Neighbors(*radius_join(queries, references, search.radius))
    if search.k is None:
        i, j, cosine = threshold_join(queries, references, _least_cosine(search.radius))
    else:
        index, cosines = top_k(queries, references, min(search.k, len(references)))
        i, place = np.nonzero(index >= 0)
        j, cosine = index[i, place], cosines[i, place]
    return Neighbors(i, j, distances(cosine) if metric == "euclidean" else 1.0 - cosine)


def _least_cosine(radius: float | None) -> float:
    """A cosine that every pair within a cosine distance has, whatever its last digit rounds to."""
    return -1.0 if radius is None else max(-1.0, 1.0 - radius - 1e-12)


def _euclidean_knn(queries: Floats, references: Floats, search: SearchParams) -> Neighbors:
    b = references.astype(np.float64)
    b_squares = np.square(b).sum(axis=1)
    step = max(1, _BLOCK_BYTES // (8 * len(b)))
    parts = []
    for start in range(0, len(queries), step):
        a = queries[start : start + step].astype(np.float64)
        a_squares = np.square(a).sum(axis=1)
        squares = a_squares[:, None] + b_squares - 2.0 * (a @ b.T)
        i, j = _candidates(squares, _rounding(a_squares, b_squares, a.shape[1]), search)
        parts.append((i + start, j, _pairwise_distance(queries, references, i + start, j)))
    i, j, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((j, distance, i))
    found = Neighbors(i[order], j[order], distance[order])
    return found if search.k is None else found.first(search.k)


def _rounding(a: Doubles, b: Doubles, dim: int) -> float:
    """How far a squared distance from the product can be from the true one."""
    return float((2 * dim + 8) * np.finfo(np.float64).eps * (a.max() + b.max()))


def _candidates(
    squares: NDArray[np.float64], error: float, search: SearchParams
) -> tuple[Indices, Indices]:
    """Pairs that may be among each row's k nearest, or within the radius."""
    bar = np.full(len(squares), np.inf)
    if search.k is not None and search.k < squares.shape[1]:
        bar = np.partition(squares, search.k - 1, axis=1)[:, search.k - 1] + 2 * error
    elif search.radius is not None:
        bar[:] = search.radius * search.radius * (1 + 1e-12) + error
    i, j = np.nonzero(squares <= bar[:, None])
    return i.astype(np.int64), j.astype(np.int64)


def _pairwise_distance(queries: Floats, references: Floats, i: Indices, j: Indices) -> Doubles:
    """Euclidean distances of pairs from their differences: 0.0 for equal vectors."""
    apart = np.empty(len(i))
    step = max(1, _BLOCK_BYTES // (16 * queries.shape[1]))
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        difference = queries[i[part]].astype(np.float64) - references[j[part]]
        apart[part] = np.sqrt(np.square(difference).sum(axis=1))
    return apart
