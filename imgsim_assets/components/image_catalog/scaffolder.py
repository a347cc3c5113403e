"""`dg scaffold defs imgsim_assets.ImageCatalogComponent NAME --source LIST`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from imgsim_assets.components.scaffolding import SettingsScaffolder
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.settings import Settings

_SOURCE_KEYS = ("id", "url")


class CatalogParams(BaseModel):
    """Parameters of a scaffolded catalog."""

    source: str | None = Field(None, description="list of images: a path or URL")
    name: str | None = Field(None, description="name of the catalog; default: the folder's")
    id: str | None = Field(None, description="column of unique ids")
    url: str | None = Field(
        None, description="column of image URLs or paths, or several, separated by commas"
    )
    encoder: str | None = Field(None, description="name of the encoder")
    shards: int | None = Field(None, description="number of partitions")
    schedule: str | None = Field(None, description="cron expression of the refresh")


class ImageCatalogScaffolder(SettingsScaffolder):
    """Declares a catalog. Without a list, the path of one to be delivered stands in for it."""

    settings_type: ClassVar[type[Settings]] = CatalogSettings
    params_type: ClassVar[type[BaseModel]] = CatalogParams

    def attributes(self, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """The catalog's name, source, and what else is given."""
        name = params.get("name") or name
        source: dict[str, Any] = {"path": params.get("source") or f"data/{name}.csv"}
        source |= {key: params[key] for key in _SOURCE_KEYS if key in params}
        if "," in source.get("url", ""):
            source["url"] = [column.strip() for column in source["url"].split(",")]
        others = {
            key: value
            for key, value in params.items()
            if key not in {"name", "source", *_SOURCE_KEYS}
        }
        return {"name": name, "source": source, **others}
