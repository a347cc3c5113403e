"""Euclidean distances of unit vectors, radius queries, and the table of all cosines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Doubles, Indices, distances, pair_cosines
from imgsim_assets.similarity.join import MEMORY_BUDGET, threshold_join
from imgsim_assets.similarity.join_input import Pair, Side

# Far more than the rounding of 1 - radius^2 / 2 and of the distance back from it.
_SLACK = 1e-12
# Two unit vectors are no further apart.
_FURTHEST = 2.0


def radius_join(
    left: NDArray[np.floating],
    right: NDArray[np.floating],
    radius: float,
    *,
    memory_budget: int = MEMORY_BUDGET,
) -> tuple[Indices, Indices, Doubles]:
    """All pairs of rows whose Euclidean distance, sqrt(2 - 2 cosine), is at most the radius.

    Args:
        left: (n, d) float32 unit rows.
        right: (m, d) float32 unit rows.
        radius: distance of at least 0, inclusive.
        memory_budget: bytes for working memory, as of `threshold_join`.

    Returns:
        Row numbers of left and right (int64) and distances (float64) of the pairs, sorted by
        left row, then distance, then right row.

    Raises:
        ValueError: for a radius below 0 or NaN, and as `threshold_join` does.
    """
    if not radius >= 0:
        raise ValueError(f"radius {radius} is no distance; it must be at least 0")
    threshold = 1 - min(radius, _FURTHEST) ** 2 / 2 - _SLACK
    i, j, similarity = threshold_join(left, right, max(threshold, -1), memory_budget=memory_budget)
    apart = distances(similarity)
    within = apart <= radius
    return i[within], j[within], apart[within]


def cosine_matrix(left: NDArray[np.floating], right: NDArray[np.floating]) -> Doubles:
    """All cosines (n, m) float64 of unit rows (n, d) and (m, d), as `threshold_join` has them.

    For small inputs: it takes 8 bytes a pair and looks at every one. Raises ValueError as
    `threshold_join` does.
    """
    pair = Pair.of(Side.of(left, "left"), Side.of(right, "right"))
    a, b = pair.left.unit, pair.right.unit
    i, j = np.indices((len(a.rows), len(b.rows))).reshape(2, -1)
    scores = pair_cosines(a.rows, b.rows, i, j, squares=(a.squares, b.squares))
    return scores.reshape(len(a.rows), len(b.rows))
