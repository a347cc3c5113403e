"""Row numbers as a run keeps them: four bytes for each row of a catalog instead of eight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Indices

RowNumbers = NDArray[np.int64] | NDArray[np.uint32]


def compact(numbers: Indices | RowNumbers) -> RowNumbers:
    """The same numbers (n,), none of them negative, in four bytes each where they fit."""
    if numbers.dtype == np.uint32 or numbers.max(initial=0) > np.iinfo(np.uint32).max:
        return numbers
    return numbers.astype(np.uint32)
