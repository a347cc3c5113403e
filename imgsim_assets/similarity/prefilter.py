"""Prefilters: cheap scores of many pairs of rows that never miss a similar pair.

The score of two rows plus the prefilter's `error` is at least their cosine. The float32 product
of whole rows is one prefilter, that of projected rows another. The choice decides the time of a
join, never its result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgsim_assets.similarity.cosine import Doubles, Floats, product_error
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.projection import Projection, fit
from imgsim_assets.similarity.threads import single_threaded

# The cost of scoring a candidate again, in multiply-adds of a product: a constant, and so many
# for each number of a row; measured by benchmarks/similarity.py.
_CANDIDATE_COST = 10_000
_DIMENSION_COST = 20
# Smaller jobs (multiply-adds) end before a basis is fitted; k-nearest jobs need this many times
# more.
_MIN_PROJECTED_WORK = 3e10
_KNN_FACTOR = 3
_WIDTHS = (32, 64, 96, 128, 192, 256)
_FIT_SAMPLE = 2048
_THRESHOLD_SAMPLE = 1024
# Fewer queries are sampled for neighbors, since each is multiplied with every reference.
_MAX_SAMPLED_QUERIES = 128
_QUERIES_PER_SAMPLE = 32
_REFERENCES = 8192


@dataclass(frozen=True)
class Prefilter:
    """A projection, or None for whole rows; `error` makes its scores upper bounds."""

    projection: Projection | None
    error: float

    @classmethod
    def of(cls, projection: Projection | None, inputs: InputPair) -> Prefilter:
        """The prefilter of a projection, or of whole rows, for the inputs of a join."""
        if projection is None:
            return cls(None, inputs.error)
        # Projected rows may be a little longer than 1, and so may the rows themselves.
        reach = projection.reach
        rounding = product_error(projection.width, max(0.0, reach - 1))
        return cls(projection, projection.error + rounding + reach**2 - 1)

    def bytes_per_row(self) -> int:
        """Memory that a prepared row takes beside the row itself."""
        return 8 * self.projection.width if self.projection else 0

    def prepare(self, rows: Floats, squares: Doubles) -> Floats:
        """Rows (n, d) with their squared lengths (n,), in the form that is multiplied."""
        return self.projection.apply(rows, squares) if self.projection else rows

    def is_prepared(self, side: JoinInput) -> bool:
        """Whether an input holds its rows in the form that is multiplied."""
        return side.projected is not None and side.projection is self.projection

    def block(self, side: JoinInput, start: int, stop: int) -> Floats:
        """The unique rows of an input from `start` to `stop`, in the form that is multiplied."""
        if side.projected is not None and self.is_prepared(side):
            return side.projected[start:stop]
        return self.prepare(*side.block(start, stop))


def _planned(inputs: InputPair) -> Prefilter | None:
    """The prefilter that was chosen when one of the inputs was prepared, if it bounds both."""
    for side, other in ((inputs.right, inputs.left), (inputs.left, inputs.right)):
        projection = side.projection
        if projection is not None and 1 + other.unit.deviation <= projection.length:
            return Prefilter.of(projection, inputs)
        if side.is_planned and projection is None:
            return Prefilter.of(None, inputs)
    return None


def choose_for_threshold(inputs: InputPair, threshold: float, work: int | None = None) -> Prefilter:
    """The prefilter that is expected to join above a threshold fastest, from sampled pairs.

    Args:
        inputs: the left and right rows.
        threshold: the minimum cosine.
        work: multiply-adds of all joins that will use the prefilter; default: of this one.
    """
    if (planned := _planned(inputs)) is not None:
        return planned
    if (work or inputs.multiply_adds) < _MIN_PROJECTED_WORK:
        return Prefilter.of(None, inputs)
    samples = tuple(side.sample(_THRESHOLD_SAMPLE)[:2] for side in (inputs.left, inputs.right))
    return _cheapest(inputs, samples, [np.array(threshold)])


def choose_for_knn(
    inputs: InputPair, k: int, min_similarity: Doubles, work: int | None = None
) -> Prefilter:
    """The prefilter that is expected to find the k nearest fastest.

    The k-th best cosines of sampled queries, as they rise from reference to reference, say how
    many candidates a prefilter would let pass.

    Args:
        inputs: the queries and references.
        k: how many neighbors.
        min_similarity: (u,) the minimum cosine of each unique query.
        work: multiply-adds of all joins that will use the prefilter; default: of this one.
    """
    if (planned := _planned(inputs)) is not None:
        return planned
    is_small = (work or inputs.multiply_adds) < _KNN_FACTOR * _MIN_PROJECTED_WORK
    if is_small or k > len(inputs.right):
        return Prefilter.of(None, inputs)
    count = max(1, min(_MAX_SAMPLED_QUERIES, len(inputs.left) // _QUERIES_PER_SAMPLE))
    queries, squares, positions = inputs.left.sample(count)
    rising = np.maximum(_kth_products(queries, inputs, k), min_similarity[positions])
    samples = ((queries, squares), inputs.right.sample(_REFERENCES)[:2])
    return _cheapest(inputs, samples, [cutoffs[:, None] for cutoffs in rising])


def _cheapest(
    inputs: InputPair, samples: tuple[tuple[Floats, Doubles], ...], cutoffs: list[Doubles]
) -> Prefilter:
    """Of whole rows and all widths; `cutoffs` are for the rows of the first sample, in turn."""
    dim = inputs.left.dim
    widths = [width for width in _WIDTHS if width <= dim // 2]
    if not widths:
        return Prefilter.of(None, inputs)
    length = 1 + max(inputs.left.unit.deviation, inputs.right.unit.deviation)
    fitted = (side.sample(_FIT_SAMPLE // 2)[0] for side in (inputs.left, inputs.right))
    # So small matrices keep threads waiting for one another.
    with single_threaded():
        widest = fit(np.concatenate(list(fitted)), widths[-1], length)
        prefilters = [Prefilter.of(widest.leading(width), inputs) for width in widths]
        costs = [_expected_cost(prefilter, inputs, samples, cutoffs) for prefilter in prefilters]
    best = int(np.argmin(costs))
    return prefilters[best] if costs[best] < dim else Prefilter.of(None, inputs)


def _expected_cost(
    prefilter: Prefilter,
    inputs: InputPair,
    samples: tuple[tuple[Floats, Doubles], ...],
    cutoffs: list[Doubles],
) -> float:
    """Multiply-adds for each pair of rows: the score, preparing rows, and candidates."""
    a, b = (prefilter.prepare(*sample) for sample in samples)
    n, m, dim = len(inputs.left), len(inputs.right), inputs.left.dim
    scores = a @ b.T
    passing = float(np.mean([np.mean(scores >= cutoff - prefilter.error) for cutoff in cutoffs]))
    preparing = dim * a.shape[1] * (n + m) / (n * m)
    candidates = (_CANDIDATE_COST + _DIMENSION_COST * dim) * passing
    return float(a.shape[1] + preparing + candidates)


def _kth_products(queries: Floats, inputs: InputPair, k: int) -> Doubles:
    """The k-th best product of each query with more and more of the references, (steps, q)."""
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    kth = []
    for start in range(0, len(inputs.right), _REFERENCES):
        rows, _ = inputs.right.block(start, start + _REFERENCES)
        scores = np.concatenate([best, queries @ rows.T], axis=1)
        best = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k:]
        kth.append(best.min(axis=1).astype(np.float64))
    return np.stack(kth)
