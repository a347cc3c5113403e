"""Screens: cheap scores of many pairs of rows that never hide a similar pair.

A screen's score of two rows plus its `error` is at least their cosine. The float32 product of
whole rows is one, that of projected rows another. Which one is used decides how long a join
takes and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgsim_assets.similarity.cosine import Doubles, Floats, product_error
from imgsim_assets.similarity.join_input import Pair
from imgsim_assets.similarity.projection import Projection, fit

# What it takes to look again at a pair that passed, in multiply-adds of a product: so many,
# and so many for each number of a row; measured by benchmarks/similarity.py.
_PAIR_COST = 10_000
_NUMBER_COST = 20
# Smaller jobs (multiply-adds) are done before a basis is found and a width chosen, and so are
# searches for neighbors of less than so many times that.
_WORTH_PROJECTING = 3e10
_NEIGHBORS = 3
_WIDTHS = (32, 64, 96, 128, 192, 256)
_FITTED = 2048
_SAMPLE = 1024
# For neighbors fewer queries are sampled, as their bars take a product with every reference.
_QUERIES = 128
_QUERIES_SHARE = 32
_REFERENCES = 8192


@dataclass(frozen=True)
class Screen:
    """A projection, or None for whole rows; `error` makes its scores upper bounds."""

    projection: Projection | None
    error: float

    @classmethod
    def of(cls, projection: Projection | None, pair: Pair) -> Screen:
        """The screen of a projection, or of whole rows, for a pair of sides."""
        if projection is None:
            return cls(None, pair.error)
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


def for_threshold(pair: Pair, threshold: float) -> Screen:
    """The screen that is expected to join above a threshold fastest, from a sample of pairs."""
    if _multiply_adds(pair) < _WORTH_PROJECTING:
        return Screen.of(None, pair)
    samples = tuple(side.sample(_SAMPLE)[:2] for side in (pair.left, pair.right))
    return _cheapest(pair, samples, [np.array(threshold)])


def for_neighbors(pair: Pair, k: int, least: Doubles) -> Screen:
    """The screen that is expected to find the k nearest fastest, above the bars (u,) of queries.

    The k-th best cosines of a sample of queries, as they rise from reference to reference, say
    how much a screen would let pass.
    """
    if _multiply_adds(pair) < _NEIGHBORS * _WORTH_PROJECTING or k > len(pair.right):
        return Screen.of(None, pair)
    count = max(1, min(_QUERIES, len(pair.left) // _QUERIES_SHARE))
    queries, squares, asked = pair.left.sample(count)
    rising = np.maximum(_k_th_products(queries, pair, k), least[asked])
    samples = ((queries, squares), pair.right.sample(_REFERENCES)[:2])
    return _cheapest(pair, samples, [bars[:, None] for bars in rising])


def _multiply_adds(pair: Pair) -> int:
    """What the product of whole rows takes."""
    return len(pair.left) * len(pair.right) * pair.left.dim


def _cheapest(
    pair: Pair, samples: tuple[tuple[Floats, Doubles], ...], bars: list[Doubles]
) -> Screen:
    """Of whole rows and all widths; `bars` are for the rows of the first sample, in turn."""
    dim = pair.left.dim
    widths = [width for width in _WIDTHS if width <= dim // 2]
    if not widths:
        return Screen.of(None, pair)
    length = 1 + max(pair.left.unit.deviation, pair.right.unit.deviation)
    fitted = (side.sample(_FITTED // 2)[0] for side in (pair.left, pair.right))
    widest = fit(np.concatenate(list(fitted)), widths[-1], length)
    screens = [Screen.of(widest.leading(width), pair) for width in widths]
    costs = [_expected_cost(screen, pair, samples, bars) for screen in screens]
    best = int(np.argmin(costs))
    return screens[best] if costs[best] < dim else Screen.of(None, pair)


def _expected_cost(
    screen: Screen, pair: Pair, samples: tuple[tuple[Floats, Doubles], ...], bars: list[Doubles]
) -> float:
    """Multiply-adds a pair of rows: of the screen, of preparing it, and of looking again."""
    a, b = (screen.prepare(*sample) for sample in samples)
    n, m, dim = len(pair.left), len(pair.right), pair.left.dim
    scores = a @ b.T
    passing = float(np.mean([np.mean(scores >= own - screen.error) for own in bars]))
    preparing = dim * a.shape[1] * (n + m) / (n * m)
    again = (_PAIR_COST + _NUMBER_COST * dim) * passing
    return float(a.shape[1] + preparing + again)


def _k_th_products(queries: Floats, pair: Pair, k: int) -> Doubles:
    """The k-th best product of each query with more and more of the references, (steps, q)."""
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    k_th = []
    for start in range(0, len(pair.right), _REFERENCES):
        rows, _ = pair.right.block(start, start + _REFERENCES)
        scores = np.concatenate([best, queries @ rows.T], axis=1)
        best = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k:]
        k_th.append(best.min(axis=1).astype(np.float64))
    return np.stack(k_th)
