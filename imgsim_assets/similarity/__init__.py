"""Similarity: exact joins and neighbors of unit vectors, match tables, similarity graphs.

The functions are loaded on first use: a code location reads the settings of this package
whenever it loads, and must not load NumPy for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgsim_assets.lazy import lazy_getattr

if TYPE_CHECKING:
    from imgsim_assets.similarity.join import cosine_matrix, radius_join, threshold_join, top_k
    from imgsim_assets.similarity.prepared import (
        open_prepared,
        prepare_rows,
        save_prepared,
        split_rows,
    )

__all__ = [
    "cosine_matrix",
    "open_prepared",
    "prepare_rows",
    "radius_join",
    "save_prepared",
    "split_rows",
    "threshold_join",
    "top_k",
]

_PREPARED = ("open_prepared", "prepare_rows", "save_prepared", "split_rows")
_MODULES = {name: "prepared" if name in _PREPARED else "join" for name in __all__}
__getattr__ = lazy_getattr(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
