"""Similarity: exact joins and neighbors of unit vectors, match tables, similarity graphs.

The functions are loaded on first use: a code location reads the settings of this package
whenever it loads, and must not load NumPy for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgsim_assets.lazy import lazy_getattr

if TYPE_CHECKING:
    from imgsim_assets.similarity.join import cosine_matrix, radius_join, threshold_join, top_k

__all__ = ["cosine_matrix", "radius_join", "threshold_join", "top_k"]

__getattr__ = lazy_getattr(__name__, dict.fromkeys(__all__, "join"))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
