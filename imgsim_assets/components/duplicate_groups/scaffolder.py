"""`dg scaffold defs imgsim_assets.DuplicateGroupsComponent NAME --catalogs A --catalogs B`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import click
from pydantic import BaseModel, Field

from imgsim_assets.components.scaffolding import SettingsScaffolder
from imgsim_assets.pipeline.settings import DuplicateGroupsSettings
from imgsim_assets.settings import Settings


class DuplicateGroupsParams(BaseModel):
    """Parameters of scaffolded groups."""

    catalogs: list[str] = Field(default_factory=list, description="a catalog; repeat the option")


class DuplicateGroupsScaffolder(SettingsScaffolder):
    """Declares the duplicate groups of several catalogs."""

    settings_type: ClassVar[type[Settings]] = DuplicateGroupsSettings
    params_type: ClassVar[type[BaseModel]] = DuplicateGroupsParams

    def attributes(self, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The name and the catalogs."""
        catalogs = list(params.get("catalogs", []))
        if len(catalogs) < 2:
            raise click.UsageError("name two catalogs or more: --catalogs A --catalogs B")
        return {"name": name, "catalogs": catalogs}
