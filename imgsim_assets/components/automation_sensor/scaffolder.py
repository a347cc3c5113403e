"""`dg scaffold defs imgsim_assets.AutomationComponent automation`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from imgsim_assets.components.scaffolding import SettingsScaffolder
from imgsim_assets.pipeline.settings import AutomationSettings
from imgsim_assets.settings import Settings


class AutomationParams(BaseModel):
    """Parameters of a scaffolded sensor."""

    name: str | None = Field(None, description="name of the sensor")


class AutomationScaffolder(SettingsScaffolder):
    """Declares the automation sensor."""

    settings_type: ClassVar[type[Settings]] = AutomationSettings
    params_type: ClassVar[type[BaseModel]] = AutomationParams
