"""The prefilter that the joins of several batches and blocks of rows share."""

from __future__ import annotations

from dataclasses import replace

from imgsim_assets.similarity.cosine import Doubles
from imgsim_assets.similarity.join_input import InputPair
from imgsim_assets.similarity.prefilter import Prefilter, choose_for_knn, choose_for_threshold
from imgsim_assets.similarity.projection import Projection

# A prefilter is chosen again after so many multiply-adds, to which a choice adds about 1 %:
# neighbors that were found meanwhile may have made another one faster.
_MAX_WORK = 10**12
# Added to the length of rows, so that rows that are a little longer do not change it again.
_MARGIN = 1e-6


class SharedPrefilter:
    """Chooses the prefilter of a join, or takes that of the joins before.

    Attributes:
        work: multiply-adds of all joins that are to come, for which a prefilter is chosen.
    """

    def __init__(self) -> None:
        self.work: int | None = None
        self._projection: Projection | None = None
        # Multiply-adds until a prefilter is chosen again.
        self._remaining = 0

    def for_threshold(self, inputs: InputPair, threshold: float) -> Prefilter:
        """As of `choose_for_threshold`."""
        if (shared := self._shared(inputs)) is not None:
            return shared
        return self._keep(choose_for_threshold(inputs, threshold, self.work), inputs)

    def for_knn(self, inputs: InputPair, k: int, min_similarity: Doubles) -> Prefilter:
        """As of `choose_for_knn`."""
        if (shared := self._shared(inputs)) is not None:
            return shared
        return self._keep(choose_for_knn(inputs, k, min_similarity, self.work), inputs)

    def _keep(self, chosen: Prefilter, inputs: InputPair) -> Prefilter:
        self._projection = chosen.projection
        self._remaining = _MAX_WORK - inputs.multiply_adds
        return chosen

    def _shared(self, inputs: InputPair) -> Prefilter | None:
        if self._remaining <= 0:
            return None
        self._remaining -= inputs.multiply_adds
        return Prefilter.of(self._projection_for(inputs), inputs)

    def _projection_for(self, inputs: InputPair) -> Projection | None:
        """The projection of the last choice, for rows of these lengths."""
        projection = self._projection
        if projection is not None:
            # Any basis gives a bound, which depends on the lengths of the rows.
            length = 1 + max(inputs.left.unit.deviation, inputs.right.unit.deviation)
            if length > projection.length:
                self._projection = projection = replace(projection, length=length + _MARGIN)
        return projection
