"""What a person may declare about a store."""

from __future__ import annotations

from pydantic import Field

from imgsim_assets.settings import Settings


class RetentionPolicy(Settings):
    """What a collection must leave alone."""

    retain_last: int = Field(5, ge=1, description="newest commits kept of every table")
    min_age_hours: float = Field(
        168.0, ge=1.0, description="age below which nothing is deleted; longer than any run"
    )
