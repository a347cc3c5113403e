"""Which threshold to choose for a catalog, by the report of its encoder.

The report is brought up to date under the settings it was made with, so that looking for a
threshold changes no declared one; any budget of false matches is answered from its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from imgsim_assets.encoders.encoder import recommended_threshold
from imgsim_assets.encoders.evaluation import (
    DIFFERENT,
    choices_of,
    lowest_within,
    measured_below,
    recorded_encoder,
    settings_of,
    update_evaluation,
)
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import StoreError
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.store import Store


@dataclass(frozen=True)
class ThresholdRecommendation:
    """A threshold for one catalog, and what it and others give.

    `threshold` is the lowest whose false matches stay within the budget, or the encoder's own
    where the catalog is too small to tell (`is_measured` is False). `recall` is by edit, at
    that threshold. `choices` are all measured thresholds (CHOICES): the mean recall over the
    edits, and the false matches among a million pairs of different images: as many as were
    seen among the `pairs`, and with one more, which is what a budget is compared with.
    """

    catalog: str
    encoder: str
    images: int
    pairs: int
    threshold: float
    is_measured: bool
    false_positives_per_million: float
    recall: Mapping[str, float]
    choices: pl.DataFrame
    fingerprint: str

    def around(self, thresholds: Sequence[float]) -> pl.DataFrame:
        """The choices at some thresholds and at the advised one."""
        shown = {measured_below(value) for value in (*thresholds, self.threshold)}
        return self.choices.filter(pl.col("threshold").is_in(sorted(shown)))


def advise(
    store: Store,
    name: str,
    false_positives_per_million: float,
    encoder: EncoderSettings | None = None,
    *,
    log: Log = silent,
) -> ThresholdRecommendation:
    """The threshold of a catalog for a budget of false matches.

    Measures what no report has measured yet, and commits it as the catalog's report; with
    `encoder`, or else with the one that was recorded. Raises StoreError when there are no
    embeddings, or when another encoder made them.
    """
    recorded = recorded_encoder(store, name)
    report = update_evaluation(store, name, settings_of(store, name), encoder, log=log)
    lowest = lowest_within(report.rows, false_positives_per_million)
    threshold = recommended_threshold(recorded) if lowest is None else lowest
    at_it = report.rows.filter(pl.col("threshold") == measured_below(threshold))
    shares = dict(at_it.select("edit", "share").iter_rows())
    return ThresholdRecommendation(
        catalog=name,
        encoder=recorded.describe(),
        images=report.images,
        pairs=report.pairs,
        threshold=threshold,
        is_measured=lowest is not None,
        false_positives_per_million=shares.pop(DIFFERENT) * 1e6,
        recall=shares,
        choices=choices_of(report.rows),
        fingerprint=report.fingerprint,
    )


def require_same_encoders(advices: Sequence[ThresholdRecommendation]) -> None:
    """Raise StoreError unless one encoder made the vectors of all the catalogs."""
    if len({advice.fingerprint for advice in advices}) > 1:
        made_by = " and ".join(f"{advice.catalog} by {advice.encoder}" for advice in advices)
        raise StoreError(
            f"there is no threshold for vectors that cannot be compared: {made_by}; give both "
            "catalogs the same encoder and weights, and materialize their embeddings"
        )
