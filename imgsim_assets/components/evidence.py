"""The metadata about evidence and orientations: pairs by tier, and the work of the run."""

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


def describe_turned(turned: int | None) -> dict[str, Any]:
    """Metadata: how many images were encoded in other orientations; empty without orientations."""
    return {} if turned is None else {"images_encoded_turned": turned}
