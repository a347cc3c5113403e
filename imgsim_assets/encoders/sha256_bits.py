"""The bits of sha256 in hex as numbers, which take less memory than text."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

# Hex digits of 64 bits.
_DIGITS = 16


def prefix_range(prefix: str) -> tuple[np.uint64, np.uint64]:
    """The lowest and the highest first 64 bits of hashes that begin with some hex digits."""
    lowest, highest = (int(prefix.ljust(_DIGITS, digit), 16) for digit in "0f")
    return np.uint64(lowest), np.uint64(highest)


def first_bits(sha256: pl.Series) -> NDArray[np.uint64]:
    """The first 64 bits of hashes; they tell millions of images apart."""
    return _bits(sha256, 0)


def first_and_last_bits(sha256: pl.Series) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first 64 bits of hashes, and the last 64."""
    return _bits(sha256, 0), _bits(sha256, -_DIGITS)


def _bits(sha256: pl.Series, start: int) -> NDArray[np.uint64]:
    numbers = sha256.str.slice(start, _DIGITS).str.to_integer(base=16, dtype=pl.UInt64)
    return numbers.to_numpy().astype(np.uint64, copy=False)
