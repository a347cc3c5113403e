"""Unit rows to join, and their cosines by an independent computation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def unit(rows: NDArray[np.floating]) -> Floats:
    """The rows scaled to norm 1, as float32."""
    wide = rows.astype(np.float64)
    units: Floats = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return units


def noise(count: int, dim: int, seed: int) -> Floats:
    """Unrelated rows."""
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


def families(count: int, dim: int, seed: int) -> Floats:
    """Rows like those of a catalog: copies, similar rows and unrelated ones."""
    rng = np.random.default_rng(seed)
    parents = rng.standard_normal((max(1, count // 4), dim))
    rows = parents[rng.integers(0, len(parents), count)]
    blur = rng.choice([0.0, 0.1, 1.0], size=(count, 1))
    return unit(rows + blur * rng.standard_normal((count, dim)))


def lattice(count: int, dim: int, seed: int) -> Floats:
    """Rows of +-1/sqrt(dim) or a single +-1: for dim 4, 16, 64 every cosine is exact."""
    rng = np.random.default_rng(seed)
    signs = rng.choice(np.array([-1.0, 1.0]), size=(count, dim)) / np.sqrt(dim)
    single = np.zeros((count, dim))
    columns = rng.integers(0, dim, count)
    single[np.arange(count), columns] = rng.choice(np.array([-1.0, 1.0]), size=count)
    rows = np.where(rng.random((count, 1)) < 0.5, signs, single)
    return rows.astype(np.float32)


def nearly_equal(count: int, dim: int, seed: int) -> Floats:
    """Rows around one direction, closer than float32 products can distinguish."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(noise(1, dim, seed), count, axis=0)
    for row in rows:
        columns = rng.integers(0, dim, 3)
        row[columns] = np.nextafter(row[columns], np.float32(2))
    return rows


def constant(count: int, dim: int, seed: int) -> Floats:
    """Rows of equal numbers, all but one of which differs by a few units of the last place."""
    rng = np.random.default_rng(seed)
    rows = unit(np.ones((count, dim)))
    for row in rows:
        row[rng.integers(0, dim)] *= np.float32(1 + rng.integers(-3, 4) * 2.0**-23)
    return rows


def rounded_down(count: int, dim: int, seed: int, bits: int = 8) -> Floats:
    """Rows of which half the numbers lose nearly 2^-bits of themselves in a format of so many bits.

    The numbers of a column have one sign, so that the losses of two rows add up.
    """
    rng = np.random.default_rng(seed)
    half = dim // 2
    number = np.exp2(np.floor(-np.log2(dim) / 2)) * (1 + 2.0**-bits * (1 - 2.0**-10))
    others = rng.uniform(0.5, 1.0, (count, dim - half))
    others *= np.sqrt(1 - half * number**2) / np.linalg.norm(others, axis=1, keepdims=True)
    rows = np.concatenate([np.full((count, half), number), others], axis=1)
    signs = np.random.default_rng(dim).choice([-1.0, 1.0], dim)
    down: Floats = (rows * signs).astype(np.float32)
    return down


def cosines(left: NDArray[np.floating], right: NDArray[np.floating]) -> Doubles:
    """All cosines (n, m), in extended precision, rounded to float64 once."""
    a, b = left.astype(np.longdouble), right.astype(np.longdouble)
    dots = np.stack([(row * b).sum(axis=1) for row in a]) if len(a) else np.empty((0, len(b)))
    lengths = np.sqrt((a * a).sum(axis=1)[:, None] * (b * b).sum(axis=1)[None, :])
    rounded: Doubles = (dots / lengths).astype(np.float64)
    return rounded
