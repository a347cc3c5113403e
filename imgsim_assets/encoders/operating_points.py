"""What each similarity threshold finds and what it costs: frames of an encoder evaluation.

Recall falls as the threshold rises, and so do false matches. The best threshold is therefore the
lowest one whose false matches stay within a declared budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

# Rows of an evaluation: of the pairs of one kind, the share at or above each threshold.
SCHEMA = {
    "perturbation": pl.String,
    "threshold": pl.Float64,
    "recall": pl.Float64,
    "count": pl.Int64,
}
OPERATING_POINTS = {
    "threshold": pl.Float64,
    "recall": pl.Float64,
    "false_positives_per_million": pl.Float64,
    "fpr_upper_bound_ppm": pl.Float64,
}
# `perturbation` of the pairs of different images, whose "recall" is the false positive rate.
DIFFERENT_IMAGES = "different images"
# From 0.5 in steps of 0.005; below 0.5 no pair is a copy.
THRESHOLDS = tuple(round(0.5 + 0.005 * step, 3) for step in range(101))


def evaluation_rows(
    copy_cosines: Mapping[str, NDArray[np.float64]], different: NDArray[np.floating[Any]]
) -> pl.DataFrame:
    """Count, for each perturbation and for different images, the pairs above each threshold.

    Args:
        copy_cosines: by perturbation, the cosine (n,) of each image with its perturbed copy.
        different: cosines (m,) of pairs of different images.

    Returns:
        A frame of SCHEMA, one row per perturbation and threshold.
    """
    rows = []
    cosines: dict[str, NDArray[np.floating[Any]]] = {**copy_cosines, DIFFERENT_IMAGES: different}
    for perturbation, values in cosines.items():
        ordered = np.sort(values)
        below = np.searchsorted(ordered, np.asarray(THRESHOLDS, ordered.dtype), side="left")
        for threshold, position in zip(THRESHOLDS, below.tolist(), strict=True):
            recall = (len(ordered) - position) / len(ordered) if len(ordered) else 0.0
            rows.append((perturbation, threshold, recall, len(ordered)))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def lowest_threshold_within_budget(
    rows: pl.DataFrame, false_positives_per_million: float
) -> float | None:
    """The lowest threshold of an evaluation's rows that keeps within a budget of false matches.

    Returns:
        A threshold, or None when the sample is too small to guarantee the budget at any.
    """
    different = rows.filter(pl.col("perturbation") == DIFFERENT_IMAGES).sort("threshold")
    passing = different.filter(_fpr_upper_bound_ppm() <= false_positives_per_million)
    return float(passing["threshold"][0]) if passing.height else None


def operating_points(rows: pl.DataFrame) -> pl.DataFrame:
    """By threshold, the mean recall over all perturbations and the false matches.

    Args:
        rows: a frame of SCHEMA.

    Returns:
        A frame of OPERATING_POINTS. `false_positives_per_million` counts the false matches that
        were seen; `fpr_upper_bound_ppm` counts one more, and is what a budget is compared with.
    """
    is_different = pl.col("perturbation") == DIFFERENT_IMAGES
    recall = rows.filter(~is_different).group_by("threshold").agg(pl.col("recall").mean())
    false_positives = rows.filter(is_different).select(
        "threshold",
        (pl.col("recall") * 1e6).alias("false_positives_per_million"),
        _fpr_upper_bound_ppm().alias("fpr_upper_bound_ppm"),
    )
    points = recall.join(false_positives, on="threshold").sort("threshold")
    return points.select(list(OPERATING_POINTS))


def recall_at(rows: pl.DataFrame, threshold: float) -> tuple[dict[str, float], float]:
    """The recall of each perturbation at a threshold, and the false positives per million."""
    at_threshold = rows.filter(pl.col("threshold") == floor_to_grid(threshold))
    recall = dict(at_threshold.select("perturbation", "recall").iter_rows())
    return recall, recall.pop(DIFFERENT_IMAGES) * 1e6


def floor_to_grid(threshold: float) -> float:
    """The highest of THRESHOLDS that is not above a threshold, else the lowest of them."""
    # An encoder's recommended threshold may lie between two that were measured.
    return max((value for value in THRESHOLDS if value <= threshold), default=THRESHOLDS[0])


def _fpr_upper_bound_ppm() -> pl.Expr:
    """False positives per million, counting one pair more than was seen.

    A small sample must not promise what it cannot know.
    """
    count = pl.col("count")
    return (pl.col("recall") * count + 1) / count.clip(lower_bound=1) * 1e6
