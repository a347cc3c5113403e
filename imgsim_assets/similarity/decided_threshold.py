"""The threshold of a match table by the pairs that people have judged around it.

`auto` is measured on the catalogs themselves, where no two different items should match. How the
pairs of two catalogs behave is another question, which judged pairs answer:

- *Which pairs count.* Every left item has one best right item. Of these pairs, in the order of
  their similarities, those around the measured threshold count as far as all of them are judged.
  So it does not matter who judged a pair and why: between two similarities every label is known,
  which selects by nothing but the similarity. A random sample above the threshold counts, too, as
  far as it is judged, each pair for as many as it was drawn from.
- *The probability of a match* is a logistic function of -log(1 - similarity), fitted to the labels.
  Its slope has a prior: false pairs thin out as a power of the distance, which was measured with
  the threshold on the catalogs. So pairs beyond the judged ones become matches at least about as
  fast as the catalogs say, and labels that a threshold divides give no infinite slope.
- *The threshold* is the lowest at which the expected false matches of the left items stay within
  the budget, with one more pair that is different, in 90 % of the resamples of the labels. The
  measured one moves down to it where it is lower, and up to it only where the measured one fails
  even with one more match. It never leaves the similarities that are judged. A lower estimate, such
  as the median, would be among the judged ones mostly where the labels show too many matches by
  chance, so that just those estimates would claim to be within the budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Doubles

# Judged pairs around the threshold from which on they decide.
MIN_PAIRS = 30
# False matches that are accepted where the left items are too few for the budget to have any.
_MIN_FALSE = 2
_RESAMPLES = 100
_CONFIDENCE = 0.9
_INTERVAL = (0.05, 0.95)
_SMALLEST_DISTANCE = 1e-3
_ITERATIONS = 30
# The greatest change of a parameter in one iteration, and what keeps the intercept finite.
_MAX_STEP = 5.0
_RIDGE = 1e-3
_TOLERANCE = 1e-9
_DIGITS = 3
Labels = NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredThreshold:
    """A threshold that was measured on the catalogs.

    Attributes:
        value: the threshold.
        slope: the power of the distance by which false pairs become fewer.
    """

    value: float
    slope: float


@dataclass(frozen=True)
class DecidedThreshold:
    """A threshold that judged pairs decide.

    Attributes:
        value: the threshold.
        low, high: its interval in 90 % of the resamples of the labels.
        pairs: judged pairs around the threshold.
        matches: those of them that were judged a match.
        sampled: judged pairs of the random sample beyond them.
        lowest, highest: the similarities of the pairs around the threshold.
        is_within: whether the budget is kept; else even the highest of them is too low, and pairs
            above it must be judged.
    """

    value: float
    low: float
    high: float
    pairs: int
    matches: int
    sampled: int
    lowest: float
    highest: float
    is_within: bool


def judged_around(similarity: Doubles, is_judged: NDArray[np.bool_], threshold: float) -> slice:
    """The longest run of judged pairs on both sides of a threshold.

    Args:
        similarity: (n,) of pairs, ascending.
        is_judged: (n,) which of them are judged.
        threshold: between the pairs below it and those that reach it.
    """
    middle = int(np.searchsorted(similarity, threshold))
    below, above = is_judged[:middle][::-1], is_judged[middle:]
    start = middle - (int(np.argmin(below)) if not below.all() else len(below))
    stop = middle + (int(np.argmin(above)) if not above.all() else len(above))
    return slice(start, stop)


def threshold_by_decisions(
    similarity: Doubles,
    label: Labels,
    in_sample: NDArray[np.bool_],
    measured: MeasuredThreshold,
    budget: float,
    *,
    seed: int = 0,
) -> DecidedThreshold | None:
    """The lowest threshold within a budget of false matches, by the labels around one.

    Args:
        similarity: (n,) of the best pair of each left item, ascending.
        label: (n,) 1 for a match, 0 for different, 0.5 for a pair of which nobody could tell, and
            nan where nobody has judged.
        in_sample: (n,) which pairs at or above the threshold are a random sample of those.
        measured: the threshold as measured without decisions.
        budget: the accepted fraction of left items with a false match.
        seed: of the resamples.

    Returns:
        None with fewer than MIN_PAIRS told pairs around the threshold.
    """
    window = judged_around(similarity, ~np.isnan(label), measured.value)
    is_told = (label == 0) | (label == 1)
    inside = np.flatnonzero(is_told[window]) + window.start
    if len(inside) < MIN_PAIRS:
        return None
    budget = max(budget, _MIN_FALSE / len(similarity))
    beyond = np.arange(window.stop, len(similarity))
    drawn = beyond[is_told[beyond] & in_sample[beyond]]
    steps = -np.log(np.maximum(1 - similarity, _SMALLEST_DISTANCE))
    rng = np.random.default_rng(seed)
    # Of each resample, and with one more match and one more different pair: see `_lowest_within`.
    found = np.empty((_RESAMPLES, 2, 2))
    for row in found:
        chosen = np.concatenate([_resampled(inside, rng), _resampled(drawn, rng)])
        weight = np.where(chosen < window.stop, 1.0, len(beyond) / max(len(drawn), 1))
        for column, one_more in enumerate((1.0, 0.0)):
            model = _fitted(steps[chosen], label[chosen], weight, one_more, measured.slope)
            row[column] = _lowest_within(similarity, 1 - model(steps), window, budget)
    with_match, with_different = found[:, 0, 1], found[:, 1, 1]
    too_low = np.quantile(found[:, 0, 0], 0.5)
    enough = float(np.quantile(with_different, _CONFIDENCE))
    lowest, highest = similarity[window][[0, -1]].tolist()
    value = min(enough, measured.value) if measured.value > too_low else enough
    return DecidedThreshold(
        value=_rounded_up(value),
        low=_rounded_up(float(np.quantile(with_match, _INTERVAL[0]))),
        high=_rounded_up(float(np.quantile(with_different, _INTERVAL[1]))),
        pairs=len(inside),
        matches=int(label[inside].sum()),
        sampled=len(drawn),
        lowest=lowest,
        highest=highest,
        is_within=value <= max(highest, measured.value),
    )


def _resampled(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    return rows[rng.integers(0, len(rows), len(rows))] if len(rows) else rows


class _Logistic:
    """A probability that does not fall as x rises."""

    def __init__(self, intercept: float, slope: float) -> None:
        self._intercept, self._slope = intercept, slope

    def __call__(self, x: Doubles) -> Doubles:
        from scipy.special import expit

        probability: Doubles = expit(self._intercept + self._slope * x)
        return probability


def _fitted(x: Doubles, label: Labels, weight: Doubles, one_more: float, slope: float) -> _Logistic:
    """The logistic regression with one more label at the center, and the prior of the slope.

    By Newton's method. The slope is normally distributed around the given one, with half of it as
    standard deviation, and positive.
    """
    center = float(np.average(x, weights=weight))
    design = np.stack([np.ones(len(x) + 1), np.append(x - center, 0.0)], axis=1)
    target, counts = np.append(label, one_more), np.append(weight, 1.0)
    precision = np.diag([_RIDGE, 4 / slope**2])
    prior = np.array([0.0, slope])
    parameters = prior.copy()
    unit = _Logistic(0.0, 1.0)
    for _ in range(_ITERATIONS):
        probability = unit(design @ parameters)
        gradient = design.T @ (counts * (target - probability))
        gradient -= precision @ (parameters - prior)
        spread = counts * probability * (1 - probability)
        step = np.linalg.solve((design * spread[:, None]).T @ design + precision, gradient)
        if float(np.abs(step).max()) < _TOLERANCE:
            break
        parameters = parameters + step * min(1.0, _MAX_STEP / max(float(np.abs(step).max()), 1e-12))
    intercept, fitted = parameters.tolist()
    fitted = max(fitted, 0.0)
    return _Logistic(intercept - fitted * center, fitted)


def _lowest_within(
    similarity: Doubles, false_probability: Doubles, window: slice, budget: float
) -> tuple[float, float]:
    """The lowest similarity of the window at which the false matches stay within the budget.

    Returns:
        The similarity of the pair below it, at which they do not, and the similarity.
    """
    expected = np.cumsum(false_probability[::-1])[::-1] / len(similarity)
    within = np.flatnonzero(expected[window] <= budget)
    inside = similarity[window]
    if not len(within):
        return float(inside[-1]), float(np.nextafter(inside[-1], 2.0))
    return float(inside[within[0] - 1]) if within[0] else -1.0, float(inside[within[0]])


def _rounded_up(threshold: float) -> float:
    scale = 10.0**_DIGITS
    return min(1.0, ceil(threshold * scale - 1e-9) / scale)
