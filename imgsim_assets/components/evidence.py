"""The metadata about evidence: the pairs of a result by tier, and the work of the run."""

from __future__ import annotations

from typing import Any

from imgsim_assets.components.metadata import counts_table
from imgsim_assets.similarity.evidence.accepted_pairs import EvidenceCounts


def describe_evidence(counts: EvidenceCounts | None) -> dict[str, Any]:
    """Metadata; empty when no evidence is computed."""
    if counts is None:
        return {}
    return {
        "evidence": counts_table(counts.tiers, "tier"),
        "compared_pairs": counts.compared,
        "images_with_new_features": counts.images,
    }
