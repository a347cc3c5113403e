"""What each similarity threshold finds and what it costs: frames of an encoder evaluation.

Recall falls as the threshold rises, and so do false matches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

# Rows of an evaluation: of the pairs or items of one kind, the share at or above each threshold.
SCHEMA = {
    "perturbation": pl.String,
    "threshold": pl.Float64,
    "recall": pl.Float64,
    "count": pl.Int64,
}
OPERATING_POINTS = {
    "threshold": pl.Float64,
    "recall": pl.Float64,
    "false_best_matches": pl.Float64,
    "false_positives_per_million": pl.Float64,
}
# `perturbation` of the pairs of different images, whose "recall" is the false positive rate.
DIFFERENT_IMAGES = "different images"
# `perturbation` of the best different item of every item.
BEST_DIFFERENT = "best different items"
# From 0.5 in steps of 0.005; below 0.5 no pair is a copy.
THRESHOLDS = tuple(round(0.5 + 0.005 * step, 3) for step in range(101))


def evaluation_rows(cosines: Mapping[str, NDArray[np.floating[Any]]]) -> pl.DataFrame:
    """Count, for each kind, the pairs above each threshold.

    Args:
        cosines: by perturbation, the cosine (n,) of each image with its perturbed copy; those of
            pairs of DIFFERENT_IMAGES; and those of the BEST_DIFFERENT item of every item.

    Returns:
        A frame of SCHEMA, one row per kind and threshold.
    """
    rows = []
    for kind, values in cosines.items():
        ordered = np.sort(values)
        below = np.searchsorted(ordered, np.asarray(THRESHOLDS, ordered.dtype), side="left")
        for threshold, position in zip(THRESHOLDS, below.tolist(), strict=True):
            recall = (len(ordered) - position) / len(ordered) if len(ordered) else 0.0
            rows.append((kind, threshold, recall, len(ordered)))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def recall_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of the perturbations alone."""
    return rows.filter(~pl.col("perturbation").is_in([DIFFERENT_IMAGES, BEST_DIFFERENT]))


def operating_points(rows: pl.DataFrame) -> pl.DataFrame:
    """By threshold, the mean recall over all perturbations and the false matches.

    Args:
        rows: a frame of SCHEMA.

    Returns:
        A frame of OPERATING_POINTS. `false_best_matches` is the fraction of the items whose best
        different item matches.
    """

    def of_kind(kind: str, column: pl.Expr) -> pl.DataFrame:
        return rows.filter(pl.col("perturbation") == kind).select("threshold", column)

    points = (
        recall_rows(rows)
        .group_by("threshold")
        .agg(pl.col("recall").mean())
        .join(of_kind(BEST_DIFFERENT, pl.col("recall").alias("false_best_matches")), on="threshold")
        .join(
            of_kind(
                DIFFERENT_IMAGES, (pl.col("recall") * 1e6).alias("false_positives_per_million")
            ),
            on="threshold",
        )
    )
    return points.sort("threshold").select(list(OPERATING_POINTS))


def point_at(rows: pl.DataFrame, threshold: float) -> tuple[dict[str, float], float, float]:
    """The recall of each perturbation, false best matches and false positives per million."""
    at_threshold = rows.filter(pl.col("threshold") == floor_to_grid(threshold))
    recall = dict(at_threshold.select("perturbation", "recall").iter_rows())
    false_best, false_positives = recall.pop(BEST_DIFFERENT), recall.pop(DIFFERENT_IMAGES)
    return recall, false_best, false_positives * 1e6


def floor_to_grid(threshold: float) -> float:
    """The highest of THRESHOLDS that is not above a threshold, else the lowest of them."""
    # A recommended threshold may lie between two that were measured.
    return max((value for value in THRESHOLDS if value <= threshold), default=THRESHOLDS[0])
