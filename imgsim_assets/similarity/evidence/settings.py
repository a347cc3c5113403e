"""The settings of evidence, which match tables, graphs and groups share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from imgsim_assets.settings import Settings
from imgsim_assets.similarity.evidence.tiers import Tier


class EvidenceSettings(Settings):
    """A second look at candidate pairs: at their bytes, pixels and local features."""

    compute: bool = Field(
        False,
        description="compare candidates, as any other of these keys implies; the extra [evidence] "
        "installs what it needs",
    )
    require: Tier = Field(
        "aligned",
        description="the weakest evidence that counts: same_bytes, same_pixels, aligned, or "
        "similar, which is a similarity at or above the threshold",
    )
    min_similarity: float = Field(
        0.5, ge=-1, le=1, description="minimum cosine of a candidate, inclusive"
    )
    max_candidates: int = Field(
        100, ge=1, le=1000, description="candidates of each image: the most similar ones"
    )
    strict: bool | None = Field(
        None,
        description="aligned images count only if they are close copies: details, keypoints and "
        "colors agree, and no point is displaced; default: true for duplicate groups, else false",
    )

    @model_validator(mode="before")
    @classmethod
    def _any_key_computes(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values and "compute" not in values:
            return {**values, "compute": True}
        return values
