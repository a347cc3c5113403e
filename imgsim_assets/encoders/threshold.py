"""Similarity thresholds of a catalog: as declared, recommended by the encoder, or measured.

A recommendation updates the evaluation under the settings that it was made with, so that asking
for one changes no declared threshold. The committed rows answer for any budget of false matches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from imgsim_assets.encoders.encoder import recommended_threshold
from imgsim_assets.encoders.evaluation import (
    MEASURED_THRESHOLD,
    EvaluationStage,
    evaluation_table,
    recorded_settings,
)
from imgsim_assets.encoders.operating_points import (
    floor_to_grid,
    lowest_threshold_within_budget,
    operating_points,
    recall_at,
)
from imgsim_assets.encoders.recorded import FINGERPRINT, encoder_from_commit
from imgsim_assets.encoders.settings import RECOMMENDED, EncoderSettings, Threshold
from imgsim_assets.encoders.stage import latest_embeddings
from imgsim_assets.errors import StoreError
from imgsim_assets.progress import Log, silent
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store


def resolve_threshold(
    store: Store, threshold: Threshold, commits: Sequence[tuple[str, Commit]]
) -> float | None:
    """Resolve a declared threshold to a minimum cosine for catalogs of one encoder.

    Args:
        store: holds the evaluations of the catalogs.
        threshold: a cosine; `recommended`, the encoder's own threshold; `auto`, the strictest
            threshold measured by the catalogs' evaluations; or None.
        commits: names of the catalogs with the commits of their embeddings or indexes.

    Returns:
        A cosine in [-1, 1], inclusive; None means no lower bound.

    Raises:
        StoreError: for `auto`, when no catalog has an evaluation of this encoder.
    """
    if not isinstance(threshold, str):
        return threshold
    if threshold == RECOMMENDED:
        return recommended_threshold(encoder_from_commit(commits[0][1]))
    names = list(dict.fromkeys(name for name, _ in commits))
    evaluations = [evaluation_table(store, name).latest() for name in names]
    measured = [
        float(evaluation.properties[MEASURED_THRESHOLD])
        for evaluation in evaluations
        if evaluation is not None
        and evaluation.properties[FINGERPRINT] == commits[0][1].properties[FINGERPRINT]
    ]
    if not measured:
        raise StoreError(
            "threshold: auto needs an evaluation of the encoder; set 'evaluation: {}' of "
            f"{' or '.join(names)} and materialize its encoder_evaluation, or run "
            f"'imgsim recommend-threshold {' '.join(names)}'"
        )
    return max(measured)


@dataclass(frozen=True)
class ThresholdRecommendation:
    """A threshold for one catalog, and the recall and false matches of all thresholds.

    Attributes:
        catalog: name of the catalog.
        encoder: the encoder that made the catalog's vectors, in words.
        images: images of the sample.
        pairs: pairs of different images in the sample.
        threshold: the lowest cosine within the budget of false matches, or the encoder's
            recommended one where the catalog is too small to tell.
        is_measured: whether the catalog is large enough to guarantee the budget.
        false_positives_per_million: false matches among a million pairs, at `threshold`.
        recall: by perturbation, the share of copies that are found at `threshold`.
        operating_points: a frame of `operating_points.OPERATING_POINTS`.
        fingerprint: of the encoder.
    """

    catalog: str
    encoder: str
    images: int
    pairs: int
    threshold: float
    is_measured: bool
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
    false_positives_per_million: float,
    encoder: EncoderSettings | None = None,
    *,
    log: Log = silent,
) -> ThresholdRecommendation:
    """Recommend a threshold for a catalog from a budget of false matches.

    Args:
        store: holds the catalog.
        name: name of the catalog.
        false_positives_per_million: most false matches among a million pairs of different images.
        encoder: the encoder with its device and weights file; by default as it was recorded.
        log: receives progress messages.

    Raises:
        StoreError: when the catalog has no embeddings, or another encoder made them.
    """
    recorded = encoder_from_commit(latest_embeddings(store, name))
    evaluation = EvaluationStage(
        store, name, recorded_settings(store, name), encoder, log=log
    ).run()
    lowest = lowest_threshold_within_budget(evaluation.rows, false_positives_per_million)
    threshold = recommended_threshold(recorded) if lowest is None else lowest
    recall, false_positives = recall_at(evaluation.rows, threshold)
    return ThresholdRecommendation(
        catalog=name,
        encoder=recorded.describe(),
        images=evaluation.images,
        pairs=evaluation.pairs,
        threshold=threshold,
        is_measured=lowest is not None,
        false_positives_per_million=false_positives,
        recall=recall,
        operating_points=operating_points(evaluation.rows),
        fingerprint=evaluation.fingerprint,
    )
