"""How much of the exact answer an index finds, on its own vectors."""

from __future__ import annotations

import numpy as np

from imgsim_assets.index.flat import FlatIndex

# Two neighbors that are equally near are as good as each other.
_TOLERANCE = 1e-5


def recall(index: FlatIndex, *, k: int = 10, sample: int = 50, seed: int = 0) -> float:
    """The share of the k nearest others of sampled items that a search finds; 1.0 if none.

    An item found in the place of one that is as near counts.
    """
    vectors = index.vectors()
    asked = np.sort(np.random.default_rng(seed).permutation(len(index))[:sample])
    there = min(k, len(index) - 1)
    if there < 1:
        return 1.0
    queries = vectors[asked]
    exact = queries @ vectors.T
    exact[np.arange(len(asked)), asked] = -np.inf
    k_th = -np.partition(-exact, there - 1, axis=1)[:, there - 1]
    positions, similarity = index.search(queries, there + 1)
    good = (positions >= 0) & (positions != asked[:, None])
    good &= similarity >= k_th[:, None] - _TOLERANCE
    return float(np.minimum(good.sum(axis=1), there).mean() / there)
