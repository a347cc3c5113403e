"""The metadata about how pairs are compared: evidence, orientations, and the method."""

from __future__ import annotations

from typing import Any

from imgsim_assets.components.metadata import counts_table
from imgsim_assets.similarity.approximate.recall import NOT_MEASURED, Recall
from imgsim_assets.similarity.evidence.accepted_pairs import EvidenceCounts
from imgsim_assets.similarity.settings import APPROXIMATE, EXACT, METHOD


def describe_evidence(counts: EvidenceCounts | None) -> dict[str, Any]:
    """Metadata; empty when no evidence is computed."""
    if counts is None:
        return {}
    return {
        "evidence": counts_table(counts.tiers, "tier"),
        "compared_pairs": counts.compared,
        "images_with_new_features": counts.images,
    }


def describe_turned(turned: int | None) -> dict[str, Any]:
    """Metadata: how many images were encoded in other orientations; empty without orientations."""
    return {} if turned is None else {"images_encoded_turned": turned}


def describe_method(recall: Recall | None, exact_seconds: float | None) -> dict[str, Any]:
    """Metadata: the method, an approximate result's recall, a large exact one's expected time."""
    described: dict[str, Any] = {METHOD: EXACT if recall is None else APPROXIMATE}
    if recall is not None:
        measured = NOT_MEASURED if recall.value is None else round(recall.value, 4)
        described |= {"recall": measured, "recall_sample": recall.rows}
    if exact_seconds is not None:
        described["estimated_exact_seconds"] = round(exact_seconds)
    return described
