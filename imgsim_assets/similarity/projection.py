"""An upper bound of cosines from a few numbers a row: a projection and the length of the rest.

A row x is split into its part in a subspace, with coordinates p, and the rest, of length r.
By Cauchy and Schwarz x.y <= p.q + r s for another row y with q and s: one product of rows
(p, r), with h + 1 numbers instead of d. It holds for any subspace; the leading principal
directions leave the shortest rests. (Jolliffe, "Principal Component Analysis",
section 2; the subspace is found by orthogonal iteration over a sample, Golub and Van Loan,
"Matrix Computations", section 8.2.4.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from imgsim_assets.similarity.cosine import Doubles, Floats

_ITERATIONS = 2
_CHUNK = 256
_U = 2.0**-24


@dataclass(frozen=True)
class Projection:
    """Onto the columns of `basis` (d, h) float32, which are nearly orthonormal.

    Proof that `error` makes the bound safe. Let V be the basis as stored, G = V'V and
    delta >= |G - I|. Let p be the float32 result for V'x, with |p - V'x| <= eta0, and
    e = x - V p. Then for rows x, y of length at most L:

        x.y = p'G q + (Vp).f + e.(Vq) + e.f,   f = y - V q
        |p'G q - p.q| <= delta M^2,            M >= |p|, |q|
        V'f = (V'y - q) - (G - I) q,  so  |(Vp).f| <= M (eta0 + delta M)
        |e|^2 = |x|^2 - 2 p.V'x + p'G p <= |x|^2 - |p|^2 + 2 M eta0 + delta M^2

    With r^2 = max(0, |x|^2 - |p|^2) + 2 M eta0 + delta M^2 and s likewise,
    x.y <= p.q + r s + delta M^2 + 2 M (eta0 + delta M). Chunks of c numbers are summed in
    float32, then their d / c sums, so eta0 <= g sqrt(h (1 + delta)) L with
    g = (c + d / c + 2) u / (1 - (c + d / c + 2) u), u = 2^-24 (Higham, section 3.1).
    """

    basis: Floats
    length: float

    @property
    def width(self) -> int:
        """The width of a projected row: the coordinates, and the length of the rest."""
        return int(self.basis.shape[1]) + 1

    @property
    def error(self) -> float:
        """The number to add to the exact product of projected rows to bound x.y."""
        delta, eta, m = self._rounding
        return delta * m**2 + 2 * m * (eta + delta * m)

    @property
    def reach(self) -> float:
        """The greatest length of a projected row."""
        delta, eta, m = self._rounding
        return float(np.sqrt(max(self.length**2, m**2) + 2 * m * eta + delta * m**2)) + 1e-6

    @cached_property
    def _rounding(self) -> tuple[float, float, float]:
        """delta, eta0 and M of the proof."""
        basis = self.basis.astype(np.float64)
        # The Frobenius norm bounds the spectral one; 1e-9 covers its own rounding.
        delta = float(np.linalg.norm(basis.T @ basis - np.eye(basis.shape[1]))) + 1e-9
        terms = (_CHUNK + len(self.basis) / _CHUNK + 3) * _U
        eta = terms / (1 - terms) * np.sqrt(basis.shape[1] * (1 + delta)) * self.length
        return delta, float(eta), self.length * float(np.sqrt(1 + delta)) + float(eta)

    def apply(self, rows: Floats, squares: Doubles) -> Floats:
        """Rows (n, d) with squared lengths (n,) as (n, h + 1) float32: (p, r)."""
        delta, eta, m = self._rounding
        projected = np.empty((len(rows), self.width), dtype=np.float32)
        p = np.zeros((len(rows), self.width - 1), dtype=np.float32)
        for start in range(0, rows.shape[1], _CHUNK):
            p += rows[:, start : start + _CHUNK] @ self.basis[start : start + _CHUNK]
        inside = np.einsum("ij,ij->i", p, p, dtype=np.float64)
        rest = np.maximum(squares - inside, 0.0) + 2 * m * eta + delta * m**2
        projected[:, :-1] = p
        # Rounded up: the length of the rest must not be understated.
        projected[:, -1] = np.nextafter(np.sqrt(rest).astype(np.float32), np.float32(2))
        return projected

    def leading(self, width: int) -> Projection:
        """The projection onto the first `width` directions only."""
        return Projection(np.ascontiguousarray(self.basis[:, :width]), self.length)


def fit(sample: Floats, width: int, length: float) -> Projection:
    """The projection onto the leading principal directions of sampled rows, in their order.

    Args:
        sample: (n, d) float32 rows.
        width: how many directions.
        length: a bound of the lengths of the rows that will be projected.
    """
    moment = (sample.T @ sample).astype(np.float64)
    basis = np.random.default_rng(0).standard_normal((len(moment), width))
    for _ in range(_ITERATIONS):
        basis = _orthonormal(moment @ basis)
    _, rotation = np.linalg.eigh(basis.T @ moment @ basis)
    return Projection(_orthonormal(basis @ rotation[:, ::-1]).astype(np.float32), length)


def _orthonormal(columns: Doubles) -> Doubles:
    """A basis of the same leading subspaces.

    By the Cholesky factor of the Gram matrix: a few products instead of a QR. The result need
    not be exactly orthonormal, since `_rounding` measures how far it is.
    """
    gram = columns.T @ columns
    # A sample of few rows has dependent columns; the ridge keeps the factor defined.
    ridge = 1e-12 * float(np.trace(gram)) + 1e-300
    factor = np.linalg.cholesky(gram + ridge * np.eye(len(gram)))
    orthonormal: Doubles = columns @ np.linalg.inv(factor).T
    return orthonormal
