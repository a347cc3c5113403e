"""The one definition of similarity: the cosine of two float32 rows, in float64.

Every result of this package is decided and reported by `pair_cosines`. Products of float32
numbers are exact in float64, and their sum is taken along a fixed tree of plain additions,
so the same two rows give the same bits in any batch, on any number of threads, under any
instruction set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.threads import in_pieces

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]

# Rows are scored in pieces of about this many numbers, to stay in the cache.
_PIECE_NUMBERS = 1 << 17
# How far a row's norm may be from 1: float32 rounding of a unit row is far below, rows that
# were never normalized are far above.
_NORM_TOLERANCE = 1e-3


class UnitRows(NamedTuple):
    """Rows (n, d) float32 in C order with their squared lengths (n,) float64.

    `deviation` is how far a length is from 1 at most.
    """

    rows: Floats
    squares: Doubles
    deviation: float


def unit_rows(rows: NDArray[np.floating], name: str) -> UnitRows:
    """The rows, checked.

    Raises ValueError, naming the argument and the row, unless every row is finite and of
    length 1.
    """
    if rows.ndim != 2:
        raise ValueError(f"{name} must be a 2-D array (rows, numbers), not {rows.ndim}-D")
    plain = np.ascontiguousarray(rows, dtype=np.float32)
    squares = squared_norms(plain)
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
    return UnitRows(plain, squares, float(deviations.max(initial=0.0)))


def squared_norms(rows: Floats) -> Doubles:
    """The squared length of each row, (n,) float64."""
    squares = np.empty(len(rows))

    def fill(piece: slice) -> None:
        wide = rows[piece].astype(np.float64)
        squares[piece] = _tree_sum(np.multiply(wide, wide, out=wide))

    # A sum is many short steps, between which threads queue for the interpreter.
    in_pieces(len(rows), 2 * piece_rows(rows.shape[1]), fill)
    return squares


def pair_cosines(
    left: Floats,
    right: Floats,
    left_index: Indices,
    right_index: Indices,
    *,
    squares: tuple[Doubles, Doubles] | None = None,
) -> Doubles:
    """The cosine of left[left_index[i]] and right[right_index[i]] for every i, (m,) float64.

    Identical rows give exactly 1.0. `squares` are the `squared_norms` of all rows of both
    sides, where they are known already.
    """
    of_left, of_right = squares or (squared_norms(left), squared_norms(right))
    cosines = np.empty(len(left_index))

    def fill(piece: slice) -> None:
        i, j = left_index[piece], right_index[piece]
        dot = _tree_sum(np.multiply(left[i], right[j], dtype=np.float64))
        lengths = np.sqrt(of_left[i] * of_right[j])
        cosines[piece] = np.clip(dot / lengths, -1.0, 1.0)

    in_pieces(len(left_index), piece_rows(left.shape[1]), fill)
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


def piece_rows(dim: int) -> int:
    """How many rows of `dim` numbers make a piece."""
    return max(1, _PIECE_NUMBERS // max(1, dim))


def _tree_sum(terms: Doubles) -> Doubles:
    """Row sums of (m, d), adding halves until one column is left."""
    width = terms.shape[1]
    if width == 0:
        return np.zeros(len(terms))
    while width > 1:
        half = width // 2
        # Into an array of its own: in place, numpy would copy what seems to overlap first.
        sums = np.empty((len(terms), width - half))
        np.add(terms[:, :half], terms[:, width - half : width], out=sums[:, :half])
        # An odd column moves along unchanged.
        sums[:, half:] = terms[:, half : width - half]
        terms, width = sums, width - half
    return terms[:, 0]
