"""Screens: cheap scores of many pairs of rows that never hide a similar pair.

A screen's score of two rows plus its `error` is at least their cosine. The float32 product of
whole rows is one, that of projected rows another. Which one is used decides how long a join
takes and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgsim_assets.similarity.cosine import Doubles, Floats, UnitRows, product_error
from imgsim_assets.similarity.projection import Projection, fit, spread

# What it takes to look again at a pair that passed, in multiply-adds of a product for each
# number of a row; measured by benchmarks/similarity.py.
_PAIR_COST = 24
# Smaller jobs (multiply-adds) are done before a basis is found.
_WORTH_PROJECTING = 4e9
_WIDTHS = (32, 64, 96, 128, 192, 256)
_SAMPLE = 1024


@dataclass(frozen=True)
class Screen:
    """A projection, or None for whole rows; `error` makes its scores upper bounds."""

    projection: Projection | None
    error: float

    @classmethod
    def of(cls, projection: Projection | None, left: UnitRows, right: UnitRows) -> Screen:
        """The screen of a projection, or of whole rows, for these two sides."""
        deviation = max(left.deviation, right.deviation)
        if projection is None:
            return cls(None, product_error(left.rows.shape[1], deviation))
        # Projected rows may be a little longer than 1, and so may the rows themselves.
        reach = projection.reach
        rounding = product_error(projection.width, max(0.0, reach - 1))
        return cls(projection, projection.error + rounding + reach**2 - 1)

    def bytes_per_row(self) -> int:
        """Memory that a prepared row takes beside the row itself."""
        return 8 * self.projection.width if self.projection else 0

    def prepare(self, rows: Floats, squares: Doubles) -> Floats:
        """Rows (n, d) with their squared lengths, as they are to be multiplied."""
        return self.projection.apply(rows, squares) if self.projection else rows


def for_threshold(left: UnitRows, right: UnitRows, threshold: float) -> Screen:
    """The screen that is expected to join above a threshold fastest, from a sample of pairs."""
    whole = Screen.of(None, left, right)
    dim = left.rows.shape[1]
    widths = [width for width in _WIDTHS if width <= dim // 2]
    if len(left.rows) * len(right.rows) * dim < _WORTH_PROJECTING or not widths:
        return whole
    length = 1 + max(left.deviation, right.deviation)
    widest = fit(left.rows, right.rows, widths[-1], length)
    screens = [whole, *(Screen.of(widest.leading(width), left, right) for width in widths)]
    return min(screens, key=lambda screen: _expected_cost(screen, left, right, threshold))


def _expected_cost(screen: Screen, left: UnitRows, right: UnitRows, threshold: float) -> float:
    """Multiply-adds a pair of rows: those of the screen, and of looking at what passes it."""
    a, b = (
        screen.prepare(spread(side.rows, _SAMPLE), spread(side.squares, _SAMPLE))
        for side in (left, right)
    )
    passing = float(np.mean(a @ b.T >= threshold - screen.error))
    looking = 0 if screen.projection is None else _PAIR_COST * left.rows.shape[1] * passing
    return float(a.shape[1] + looking)
