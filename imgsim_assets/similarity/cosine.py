"""The one definition of similarity: the cosine of two float32 rows, in float64.

Every result of this package is decided and reported by `pair_cosines`. Products of float32
numbers are exact in float64, and their sum is taken along a fixed tree of plain additions,
so the same two rows give the same bits in any batch, on any number of threads, under any
instruction set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

# Rows are scored in pieces of about this many numbers, to stay in the cache.
_PIECE_NUMBERS = 1 << 19
# How far a row's norm may be from 1: float32 rounding of a unit row is far below, rows that
# were never normalised are far above.
_NORM_TOLERANCE = 1e-3


def unit_rows(rows: NDArray[np.floating], name: str) -> tuple[Floats, float]:
    """The rows as a C-contiguous (n, d) float32 array, and how far a length is from 1 at most.

    Raises ValueError, naming the argument and the row, unless every row is finite and of
    length 1.
    """
    if rows.ndim != 2:
        raise ValueError(f"{name} must be a 2-D array (rows, numbers), not {rows.ndim}-D")
    plain = np.ascontiguousarray(rows, dtype=np.float32)
    norms = np.sqrt(squared_norms(plain))
    deviations = np.abs(norms - 1)
    # Negated, so that a NaN counts as bad.
    bad = np.flatnonzero(~(deviations <= _NORM_TOLERANCE))
    if len(bad):
        row = int(bad[0])
        what = "not finite" if not np.isfinite(norms[row]) else f"of length {norms[row]:.6g}"
        raise ValueError(
            f"{name} row {row} is {what}; every row must be a finite vector of length 1 "
            f"({len(bad)} of {len(norms)} rows are not)"
        )
    return plain, float(deviations.max(initial=0.0))


def squared_norms(rows: Floats) -> Doubles:
    """The squared length of each row, (n,) float64."""
    squares = np.empty(len(rows))
    step = _rows_at_once(rows.shape[1])
    for start in range(0, len(rows), step):
        piece = rows[start : start + step].astype(np.float64)
        squares[start : start + step] = _tree_sum(piece * piece)
    return squares


def pair_cosines(left: Floats, right: Floats, left_index: Indices, right_index: Indices) -> Doubles:
    """The cosine of left[left_index[i]] and right[right_index[i]] for every i, (m,) float64.

    Identical rows give exactly 1.0.
    """
    cosines = np.empty(len(left_index))
    step = _rows_at_once(left.shape[1])
    for start in range(0, len(left_index), step):
        a = left[left_index[start : start + step]].astype(np.float64)
        b = right[right_index[start : start + step]].astype(np.float64)
        dot = _tree_sum(a * b)
        lengths = np.sqrt(_tree_sum(a * a) * _tree_sum(b * b))
        cosines[start : start + step] = np.clip(dot / lengths, -1.0, 1.0)
    return cosines


def distances(similarity: Doubles) -> Doubles:
    """Euclidean distances of unit vectors with these cosines: sqrt(2 - 2 cos)."""
    return np.sqrt(np.maximum(0.0, 2.0 - 2.0 * similarity))


def product_error(dim: int, deviation: float) -> float:
    """How far the float32 dot product of two rows can be from their cosine.

    `deviation` bounds how far the rows' lengths are from 1. The rounding of a sum of `dim`
    products, in any order, is at most dim * u / (1 - dim * u) times the lengths, u = 2**-24
    (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1).
    """
    u = 2.0**-24
    lengths = (1 + deviation) ** 2
    rounding = (dim + 2) * u / (1 - (dim + 2) * u)
    # What the lengths alone can shift the product by, and the rounding of the bar itself.
    return rounding * lengths + (lengths - 1) + u


def _rows_at_once(dim: int) -> int:
    return max(1, _PIECE_NUMBERS // max(1, dim))


def _tree_sum(terms: Doubles) -> Doubles:
    """Row sums of (m, d), adding halves until one column is left; `terms` is used up."""
    width = terms.shape[1]
    if width == 0:
        return np.zeros(len(terms))
    while width > 1:
        half = width // 2
        # An odd last column moves along unchanged.
        terms[:, :half] += terms[:, width - half : width]
        width -= half
    return terms[:, 0].copy()
