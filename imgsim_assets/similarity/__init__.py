"""Similarity: exact joins and neighbors of unit vectors, match tables, similarity graphs.

The functions are loaded when they are first used: what is declared about similarity is read
wherever a code location is loaded, and must not load NumPy there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgsim_assets.lazy import lazy_getattr

if TYPE_CHECKING:
    from imgsim_assets.similarity.distance import cosine_matrix, radius_join
    from imgsim_assets.similarity.join import threshold_join, top_k

__all__ = ["cosine_matrix", "radius_join", "threshold_join", "top_k"]

_HOMES = {
    "cosine_matrix": "distance",
    "radius_join": "distance",
    "threshold_join": "join",
    "top_k": "join",
}

__getattr__ = lazy_getattr(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
