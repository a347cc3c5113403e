"""What is measured of a catalog's encoder, known without loading what measures it."""

from __future__ import annotations

from pydantic import Field

from imgsim_assets.settings import Settings

# Raise it when the same vectors give another report.
REPORT_VERSION = "1"


class EvaluationSettings(Settings):
    """What the report of a catalog's encoder measures, and the matches it may get wrong."""

    sample: int = Field(100, ge=1, le=5000, description="images that are edited, ten ways each")
    false_positives_per_million: float = Field(
        100.0, gt=0, description="most false matches among a million pairs of different images"
    )
    label: str | None = Field(None, description="column of the catalog that names a class")
