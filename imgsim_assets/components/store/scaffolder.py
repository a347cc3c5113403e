"""`dg scaffold defs imgsim_assets.StoreComponent store --url URL`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, Field

from imgsim_assets.components.scaffolding import SettingsScaffolder
from imgsim_assets.pipeline.settings import StoreSettings
from imgsim_assets.settings import Settings


class StoreParams(BaseModel):
    """Parameters of a scaffolded store."""

    url: str | None = Field(None, description="local path or fsspec URL")


class StoreScaffolder(SettingsScaffolder):
    """Declares the store of a project."""

    settings_type: ClassVar[type[Settings]] = StoreSettings
    params_type: ClassVar[type[BaseModel]] = StoreParams
