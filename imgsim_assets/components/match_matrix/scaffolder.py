"""`dg scaffold defs imgsim_assets.MatchMatrixComponent LEFT__RIGHT`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import click
from pydantic import BaseModel, Field

from imgsim_assets.components.scaffolding import SettingsScaffolder
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.settings import Settings


class MatchMatrixParams(BaseModel):
    """Parameters of a scaffolded match table."""

    left: str | None = Field(None, description="left catalog; default: from the folder's name")
    right: str | None = Field(None, description="right catalog; default: from the folder's name")
    threshold: float | None = Field(None, description="smallest cosine of a match")
    mode: str | None = Field(None, description="all, best, top_k, mutual or one_to_one")


class MatchMatrixScaffolder(SettingsScaffolder):
    """Declares a match table; a folder LEFT__RIGHT names its catalogs."""

    settings_type: ClassVar[type[Settings]] = MatchMatrixSettings
    params_type: ClassVar[type[BaseModel]] = MatchMatrixParams

    def attributes(self, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The name, the two catalogs, and what else is given."""
        left, _, right = name.partition("__")
        named = {"left": params.get("left") or left, "right": params.get("right") or right}
        if not named["right"]:
            raise click.UsageError(
                "name the two catalogs: with --left and --right, or by a folder LEFT__RIGHT"
            )
        return {"name": name, **named, **{key: params[key] for key in params if key not in named}}
