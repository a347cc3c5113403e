"""A recommended threshold for a catalog, with what other thresholds would find and cost.

A recommendation updates the evaluation under the settings that it was made with, so that asking
for one changes no declared threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.encoders.recorded import encoder_from_commit
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.evaluation.operating_points import floor_to_grid, operating_points, point_at
from imgsim_assets.evaluation.stage import EvaluationStage
from imgsim_assets.progress import Log, silent
from imgsim_assets.similarity import items
from imgsim_assets.similarity.calibration import CatalogItems, calibrate
from imgsim_assets.similarity.evaluation_table import recorded_settings
from imgsim_assets.similarity.threshold import auto_threshold
from imgsim_assets.storage.store import Store


@dataclass(frozen=True)
class ThresholdRecommendation:
    """A threshold for one catalog, and the recall and false matches of all thresholds.

    Attributes:
        catalog: name of the catalog.
        encoder: the encoder that made the catalog's vectors, in words.
        items: items that were compared.
        pairs: pairs of different images in the sample.
        threshold: the threshold that `auto` has within the catalog.
        measured_threshold: the same, unless the catalog is too small to rely on it.
        interval: of the measured threshold, in 90 % of the resamples of the catalog.
        source: how the threshold was decided.
        is_measured: whether the catalog is large enough to keep the budget.
        false_best_matches: the fraction of items whose best different item reaches `threshold`.
        false_positives_per_million: false matches among a million pairs, at `threshold`.
        recall: by perturbation, the share of copies that are found at `threshold`.
        operating_points: a frame of `operating_points.OPERATING_POINTS`.
        fingerprint: of the encoder.
    """

    catalog: str
    encoder: str
    items: int
    pairs: int
    threshold: float
    measured_threshold: float
    interval: tuple[float, float]
    source: str
    is_measured: bool
    false_best_matches: float
    false_positives_per_million: float
    recall: Mapping[str, float]
    operating_points: pl.DataFrame
    fingerprint: str

    def near(self, thresholds: Sequence[float]) -> pl.DataFrame:
        """The operating points at some thresholds and at the recommended one."""
        shown = {floor_to_grid(value) for value in (*thresholds, self.threshold)}
        return self.operating_points.filter(pl.col("threshold").is_in(sorted(shown)))


def recommend_threshold(
    store: Store,
    name: str,
    false_matches: float,
    encoder: EncoderSettings | None = None,
    *,
    searched: int | None = None,
    evidence: bool = False,
    log: Log = silent,
) -> ThresholdRecommendation:
    """Recommend a threshold for a catalog from a budget of false matches.

    Args:
        store: holds the catalog.
        name: name of the catalog.
        false_matches: the accepted fraction of items with a false best match.
        encoder: the encoder with its device and weights file; by default as it was recorded.
        searched: items of the catalog that is searched; by default the catalog itself.
        evidence: items whose images align are no false matches.
        log: receives progress messages.

    Raises:
        SettingsError: with evidence, when OpenCV is not installed.
        StoreError: when the catalog has no embeddings, or another encoder made them.
    """
    settings = recorded_settings(store, name)
    with use_compute(ComputeSettings(), log):
        evaluation = EvaluationStage(store, name, settings, encoder).run()
    commit, compared = items.from_embeddings(store, name)
    recorded = encoder_from_commit(commit)
    calibration = calibrate(
        store,
        CatalogItems(name, commit, compared),
        false_matches,
        evidence=evidence or settings.evidence,
        remeasure=True,
    )
    resolved = auto_threshold([calibration], recorded, searched)
    threshold, source, is_measured = resolved.value, resolved.source, resolved.is_measured
    recall, false_best, false_positives = point_at(evaluation.rows, threshold)
    return ThresholdRecommendation(
        catalog=name,
        encoder=recorded.describe(),
        items=calibration.items,
        pairs=evaluation.pairs,
        threshold=threshold,
        measured_threshold=calibration.threshold(searched),
        interval=calibration.interval(searched),
        source=source,
        is_measured=is_measured,
        false_best_matches=false_best,
        false_positives_per_million=false_positives,
        recall=recall,
        operating_points=operating_points(evaluation.rows),
        fingerprint=evaluation.fingerprint,
    )
