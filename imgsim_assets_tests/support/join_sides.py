"""Pairs of arrays that hypothesis draws for joins."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from imgsim_assets_tests.support.vectors import Floats, families, nearly_equal, noise

_MAX_ROWS = 60


@st.composite
def join_sides(draw: st.DrawFn, dim: int) -> tuple[Floats, Floats]:
    """Two arrays of rows, of which some are copies of others, and some are a little longer."""
    seed = draw(st.integers(0, 2**32 - 1))
    make = draw(st.sampled_from([noise, families, nearly_equal]))
    left, right = (make(draw(st.integers(1, _MAX_ROWS)), dim, seed + side) for side in (0, 1))
    for _ in range(draw(st.integers(0, 6))):
        right[draw(st.integers(0, len(right) - 1))] = left[draw(st.integers(0, len(left) - 1))]
        left[draw(st.integers(0, len(left) - 1))] = left[draw(st.integers(0, len(left) - 1))]
    if draw(st.booleans()):
        right[draw(st.integers(0, len(right) - 1))] *= np.float32(1.0009)
    return left, right
