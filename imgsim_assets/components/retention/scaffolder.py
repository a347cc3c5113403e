"""`dg scaffold defs imgsim_assets.RetentionComponent retention`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from imgsim_assets.components.scaffolding import SettingsScaffolder
from imgsim_assets.pipeline.settings import RetentionSettings
from imgsim_assets.settings import Settings


class RetentionParams(BaseModel):
    """Parameters of a scaffolded retention."""

    retain_last: int | None = Field(None, description="number of newest versions kept")
    schedule: str | None = Field(None, description="cron expression of the deletion")


class RetentionScaffolder(SettingsScaffolder):
    """Declares what the store keeps."""

    settings_type: ClassVar[type[Settings]] = RetentionSettings
    params_type: ClassVar[type[BaseModel]] = RetentionParams
