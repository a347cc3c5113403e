"""The one definition of similarity: the cosine of two float32 rows, in float64.

`pair_cosines` decides and reports every result of this package. Products of float32 numbers
are exact in float64, and a fixed tree of plain additions sums them. So the same two rows give
the same bits in any batch, on any number of threads, under any instruction set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.threads import parallel_slices

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

# Rows are scored in slices of about this many numbers, to stay in the cache.
_VALUES_PER_SLICE = 1 << 17
# How far a row's norm may be from 1: rounding to float32 stays far below, and rows that were
# never normalized are far above.
_NORM_TOLERANCE = 1e-3


class UnitRows(NamedTuple):
    """Rows (n, d) float32 in C order with their squared lengths (n,) float64.

    `deviation` is the greatest difference of a length from 1.
    """

    rows: Floats
    squares: Doubles
    deviation: float


def unit_rows(rows: NDArray[np.floating], name: str) -> UnitRows:
    """The rows, validated.

    Args:
        rows: (n, d) of any float type and memory layout.
        name: the argument that an error message names.

    Raises:
        ValueError: unless every row is finite and of length 1; the message names the row.
    """
    if rows.ndim != 2:
        raise ValueError(f"{name} must be a 2-D array (rows, numbers), not {rows.ndim}-D")
    contiguous = np.ascontiguousarray(rows, dtype=np.float32)
    squares = squared_norms(contiguous)
    norms = np.sqrt(squares)
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
    return UnitRows(contiguous, squares, float(deviations.max(initial=0.0)))


def squared_norms(rows: Floats) -> Doubles:
    """The squared length of each row, (n,) float64."""
    squares = np.empty(len(rows))

    def fill(part: slice) -> None:
        wide = rows[part].astype(np.float64)
        squares[part] = _tree_sum(np.multiply(wide, wide, out=wide))

    # A sum is many short calls, and threads wait for the interpreter lock between them.
    parallel_slices(len(rows), 2 * rows_per_slice(rows.shape[1]), fill)
    return squares


def pair_cosines(
    left: Floats,
    right: Floats,
    left_index: Indices,
    right_index: Indices,
    *,
    squares: tuple[Doubles, Doubles] | None = None,
) -> Doubles:
    """The cosines of pairs of rows; identical rows give exactly 1.0.

    Args:
        left: (n, d) float32 rows.
        right: (m, d) float32 rows.
        left_index: (p,) row numbers of left.
        right_index: (p,) row numbers of right.
        squares: the `squared_norms` of left and right, if they are computed already.

    Returns:
        (p,) float64 cosines of left[left_index[i]] and right[right_index[i]].
    """
    left_squares, right_squares = squares or (squared_norms(left), squared_norms(right))
    cosines = np.empty(len(left_index))

    def fill(part: slice) -> None:
        i, j = left_index[part], right_index[part]
        dot = _tree_sum(np.multiply(left[i], right[j], dtype=np.float64))
        lengths = np.sqrt(left_squares[i] * right_squares[j])
        cosines[part] = np.clip(dot / lengths, -1.0, 1.0)

    parallel_slices(len(left_index), rows_per_slice(left.shape[1]), fill)
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
    # The lengths alone shift the product by lengths - 1; u is the rounding of a cutoff.
    return rounding * lengths + (lengths - 1) + u


def rows_per_slice(dim: int) -> int:
    """How many rows of `dim` numbers make a slice."""
    return max(1, _VALUES_PER_SLICE // max(1, dim))


def _tree_sum(terms: Doubles) -> Doubles:
    """Row sums of (m, d), adding halves until one column is left."""
    width = terms.shape[1]
    if width == 0:
        return np.zeros(len(terms))
    while width > 1:
        half = width // 2
        # Not in place: NumPy would first copy operands that seem to overlap.
        sums = np.empty((len(terms), width - half))
        np.add(terms[:, :half], terms[:, width - half : width], out=sums[:, :half])
        # An odd column is carried over unchanged.
        sums[:, half:] = terms[:, half : width - half]
        terms, width = sums, width - half
    return terms[:, 0]
