"""How often a threshold that judged pairs decide exceeds its budget of false matches.

    python -m benchmarks.decided_threshold --draws 100

Each draw is a population of best pairs whose labels are known: the probability of a match is a
logistic function of the logarithm of the distance, of which the slope that was measured on the
catalogs is right, or off by a factor (`--slopes`). The measured threshold is too low, right or too
high (`--starts`), the nearest pairs around it are judged (`--judged`), and some of a random
sample above it. Counts the draws that claim to be within the budget, and of those the ones that
are not.
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.decided_threshold import MeasuredThreshold, threshold_by_decisions

_SLOPE = 8.0
_HEADER = (
    "start  judged sampled slope   claims   false of those (mean, 90 %, above 1.1x)   threshold "
    "(best)   others"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--budget", type=float, default=0.01)
    parser.add_argument("--middle", type=float, default=0.75, help="similarity of even odds")
    parser.add_argument("--starts", type=float, nargs="+", default=[0.65, 0.75, 0.85, 0.95])
    parser.add_argument("--judged", type=int, nargs="+", default=[40, 200, 1000])
    parser.add_argument("--sampled", type=int, nargs="+", default=[0, 100])
    parser.add_argument("--slopes", type=float, nargs="+", default=[1.0], help="true over measured")
    options = parser.parse_args()
    print(_HEADER)
    for start, judged, sampled, factor in product(
        options.starts, options.judged, options.sampled, options.slopes
    ):
        draws = [
            _draw(np.random.default_rng(seed), options, start, judged, sampled, factor)
            for seed in range(options.draws)
        ]
        _print(draws, options.budget, start, judged, sampled, factor)


def _draw(
    rng: np.random.Generator,
    options: argparse.Namespace,
    start: float,
    judged: int,
    sampled: int,
    factor: float,
) -> tuple[bool, float, float, float]:
    """Whether it claims to be within the budget, the false rate, the threshold and the best one."""
    similarity, is_match = population(rng, options.items, options.middle, _SLOPE * factor)
    label = np.full(len(similarity), np.nan)
    middle = int(np.searchsorted(similarity, start))
    window = np.arange(max(0, middle - judged // 2), min(len(label), middle + judged // 2))
    label[window] = is_match[window]
    drawn = rng.permutation(np.arange(middle, len(label)))[:sampled]
    label[drawn] = is_match[drawn]
    in_sample = np.zeros(len(label), dtype=bool)
    in_sample[drawn] = True
    measured = MeasuredThreshold(start, _SLOPE)
    decided = threshold_by_decisions(similarity, label, in_sample, measured, options.budget)
    if decided is None:
        raise SystemExit("fewer pairs are judged than decide")
    false = np.cumsum(~is_match[::-1])[::-1] / len(label)
    rate = float(np.append(false, 0)[np.searchsorted(similarity, decided.value)])
    best = similarity[np.flatnonzero(false <= options.budget)[0]]
    return decided.is_within, rate, decided.value, float(best)


def population(
    rng: np.random.Generator, count: int, middle: float, slope: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Similarities of best pairs, ascending, and which are matches; even odds at `middle`."""
    similarity = np.sort(1 - 0.6 * rng.random(count) ** 0.7)
    odds = ((1 - middle) / np.maximum(1 - similarity, 1e-6)) ** slope
    return similarity, rng.random(count) < odds / (1 + odds)


def _print(
    draws: list[tuple[bool, float, float, float]],
    budget: float,
    start: float,
    judged: int,
    sampled: int,
    factor: float,
) -> None:
    claims, rates, values, best = (np.array(part) for part in zip(*draws, strict=True))
    claimed = rates[claims]
    text = "none"
    if len(claimed):
        text = (
            f"{claimed.mean():.4f} {np.quantile(claimed, 0.9):.4f} "
            f"{(claimed > 1.1 * budget).mean():4.0%}"
        )
    print(
        f"{start:5.2f} {judged:7d} {sampled:7d} {factor:5.2f} {claims.mean():7.0%}    {text:25s}"
        f"   {values.mean():.3f} ({best.mean():.3f})"
        f"   {rates[~claims].mean() if (~claims).any() else 0:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
