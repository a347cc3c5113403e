"""How far the similarities of a table have moved from one version to the next."""

from __future__ import annotations

import numpy as np
import polars as pl


def drift(before: pl.Series, after: pl.Series) -> float:
    """The two-sample Kolmogorov-Smirnov distance of two lists of similarities, from 0 to 1.

    It is the largest difference of their cumulative distributions: 0 when they are the same, 1
    when every value of one lies above every value of the other. An empty list is as far as can
    be from one that is not. Kolmogorov 1933, Smirnov 1939.
    """
    if before.is_empty() or after.is_empty():
        return float(before.is_empty() != after.is_empty())
    old, new = np.sort(before.to_numpy()), np.sort(after.to_numpy())
    places = np.concatenate([old, new])
    shares = [np.searchsorted(each, places, side="right") / len(each) for each in (old, new)]
    return float(np.abs(shares[0] - shares[1]).max())
