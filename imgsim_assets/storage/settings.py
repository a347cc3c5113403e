"""Settings of a store."""

from __future__ import annotations

from pydantic import Field

from imgsim_assets.settings import Settings


class RetentionPolicy(Settings):
    """What garbage collection keeps."""

    retain_last: int = Field(5, ge=1, description="number of newest versions kept of every table")
    min_age_hours: float = Field(
        168.0,
        ge=1.0,
        description="files younger than this are never deleted; must be longer than any run",
    )
