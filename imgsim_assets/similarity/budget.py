"""Thresholds that keep a budget of false matches: statistics of the nearest different items.

The rate of a threshold is the fraction of items whose best different item reaches it. Four
properties of catalogs decide how it is estimated:

- *Few items are false.* At a budget of 1 %, 500 items have five. Beyond the upper fifth of the
  similarities, the rate is therefore that of a fitted tail: it falls as a power of the distance,
  as the distances of nearest neighbors do.
- *Pairs share images.* Items are resampled together with the pairs between them (a bootstrap over
  images). A high quantile of the threshold over the resamples is used.
- *Another catalog of the same size has other false matches by chance.* Its expected number is
  chosen so low that it exceeds the budget with a probability of 5 % (Poisson, in pairs, because a
  false match usually makes two items false).
- *More items have more false matches.* If each other item matches independently, a rate r among n
  items is 1 - (1 - r)^(N / n) among N. Items that differ in their rates make that an upper bound
  for N > n, by Jensen's inequality. A catalog smaller than n counts as one of n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.other_items import NearestOthers

# The fraction of the greatest similarities to which the tail is fitted.
_TAIL = 0.2
_RESAMPLES = 100
# The quantile of the threshold over the resamples that is recommended, and its interval.
_CONFIDENCE = 0.9
_INTERVAL = (0.05, 0.95)
# The probability that another catalog of the same size exceeds the budget at the true rate.
_RISK = 0.05
# Below this many different items nothing is promised.
MIN_ITEMS = 30
# Nearer pairs count as this near, so that a few near copies do not decide the fitted tail.
_SMALLEST_DISTANCE = 1e-3
_DIGITS = 3


@dataclass(frozen=True)
class BudgetThreshold:
    """The lowest threshold within a budget, and the interval of its estimate."""

    value: float
    low: float
    high: float


def thresholds_within(
    others: NearestOthers, budget: float, sizes: Sequence[int], *, seed: int = 0
) -> list[BudgetThreshold]:
    """For each size of the searched catalog, the lowest threshold within a budget.

    Args:
        others: the nearest different items of a catalog.
        budget: the accepted fraction of items with a false best match, above 0 and below 1.
        sizes: numbers of items that are searched.
        seed: of the resamples.

    Returns:
        A threshold for each size; 1.0 where there are no two different items.
    """
    if others.clusters < 2 or not np.isfinite(others.best).any():
        return [BudgetThreshold(1.0, 1.0, 1.0)] * len(sizes)
    rate = expected_rate(budget, len(others))
    rng = np.random.default_rng(seed)
    numbers, cluster = np.unique(others.cluster, return_inverse=True)
    searched = np.maximum(np.asarray(sizes, dtype=np.float64), len(others))
    resamples = np.array(
        [
            _resampled_thresholds(others, numbers, cluster, rate, searched, rng)
            for _ in range(_RESAMPLES)
        ]
    )
    quantiles = np.quantile(resamples, [_CONFIDENCE, *_INTERVAL], axis=0)
    return [BudgetThreshold(*map(_rounded_up, column)) for column in quantiles.T.tolist()]


def expected_rate(budget: float, items: int) -> float:
    """The rate at which a catalog of that many items exceeds the budget in 5 % of the cases.

    A single pair is accepted in catalogs that are too small for the budget to have one. The rate
    is never above the budget.
    """
    from scipy.special import pdtrc

    allowed_pairs = max(1, floor(budget * items / 2 + 1e-9))
    low, high = 0.0, budget * items / 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if pdtrc(allowed_pairs, middle) <= _RISK else (low, middle)
    return 2 * low / items


def _resampled_thresholds(
    others: NearestOthers,
    numbers: np.ndarray,
    cluster: Indices,
    rate: float,
    searched: Doubles,
    rng: np.random.Generator,
) -> Doubles:
    """The threshold for each size of one resample of the images.

    `numbers` (c,) are those of the clusters, ascending, and `cluster` (n,) the position among them
    of each item's.
    """
    count = len(numbers)
    weight = np.bincount(rng.integers(0, count, count), minlength=count)
    is_drawn = weight > 0
    best = _best_drawn(others, numbers[is_drawn])
    drawn = is_drawn[cluster] & np.isfinite(best)
    if not drawn.any():
        return np.ones(len(searched))
    # A resample has fewer different images than the catalog.
    rates = 1 - (1 - rate) ** (np.count_nonzero(is_drawn) / searched)
    return _tail_thresholds(best[drawn], weight[cluster][drawn].astype(np.float64), rates)


def _best_drawn(others: NearestOthers, numbers: np.ndarray) -> Doubles:
    """The greatest cosine of each item to one of the clusters of some numbers, (n,)."""
    # The last entry is that of -1, which is no cluster.
    is_drawn = np.zeros(int(others.cluster.max()) + 2, dtype=bool)
    is_drawn[numbers] = True
    best = np.empty(len(others))
    for part, (similarity, other) in others.blocks():
        present = is_drawn[other]
        nearest = similarity[np.arange(len(other)), present.argmax(axis=1)]
        # None of the nearest is drawn: the farthest known one bounds what is beyond.
        best[part] = np.where(present.any(axis=1), nearest, similarity[:, -1])
    return best


def _tail_thresholds(best: Doubles, weight: Doubles, rates: Doubles) -> Doubles:
    """The similarity that a fraction of the items, one of `rates`, exceeds."""
    order = np.argsort(-best, kind="stable")
    best, weight = best[order], weight[order]
    fraction = np.cumsum(weight) / weight.sum()
    steps = -np.log(np.maximum(1 - best, _SMALLEST_DISTANCE))
    start = min(max(int(np.searchsorted(fraction, _TAIL)), 1), len(best) - 1)
    excess = steps[:start] - steps[start] if len(best) > 1 else np.zeros(1)
    mean = float(np.average(excess, weights=weight[: len(excess)]))
    tail = 1 - np.exp(-(steps[start if len(best) > 1 else 0] + np.log(_TAIL / rates) * mean))
    inside = best[np.minimum(np.searchsorted(fraction, rates, side="right"), len(best) - 1)]
    thresholds: Doubles = np.where(rates < _TAIL, tail, inside)
    return thresholds


def _rounded_up(threshold: float) -> float:
    scale = 10.0**_DIGITS
    return min(1.0, ceil(threshold * scale - 1e-9) / scale)
