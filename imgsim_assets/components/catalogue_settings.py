"""Everything a person declares about one catalogue."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from imgsim_assets.catalogue.source import SourceSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderChoice, EncoderSettings
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.settings import Settings
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings, MatchSettings

NAME_PATTERN = r"^[a-z][a-z0-9_]*$"
Severity = Literal["warn", "error"]


class CheckSettings(Settings):
    """When the asset checks of a catalogue complain."""

    min_success_rate: float = Field(
        0.5, ge=0, le=1, description="least share of items with an image"
    )
    severity: Severity = Field("warn", description="of a breached success rate")
    sample: int = Field(50, ge=1, le=10_000, description="items that sampled checks look at")


class CatalogueSettings(Settings):
    """A catalogue of images: where it comes from and how it is worked on."""

    name: str = Field(
        pattern=NAME_PATTERN, max_length=64, description="lower case, digits and underscores"
    )
    source: SourceSettings
    shards: int = Field(4, ge=1, le=4096, description="partitions that the items are split into")
    encoder: EncoderChoice = EncoderSettings()
    download: DownloadSettings = DownloadSettings()
    index: IndexSettings = IndexSettings()
    graph: GraphSettings = GraphSettings()
    groups: GroupSettings | None = Field(
        None, description="duplicate groups; without it there is no such asset"
    )
    checks: CheckSettings = CheckSettings()
    schedule: str | None = Field(None, description="cron expression of the refresh")
    timezone: str = Field("UTC", description="of the schedule")
    max_shards_per_run: int | None = Field(
        None, ge=1, description="split backfills into runs of so many shards; default: one run"
    )
    owners: tuple[str, ...] = Field((), description="e-mail addresses or team:NAME")
    tags: dict[str, str] = Field(default_factory=dict)
    description: str | None = None

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value == "matches":
            raise ValueError("'matches' is where match tables live; choose another name")
        return value


class MatchMatrixSettings(MatchSettings):
    """A match table of two catalogues."""

    name: str = Field(
        pattern=NAME_PATTERN,
        max_length=130,
        description="of the table; left__right is a good one",
    )
    left: str = Field(description="name of the catalogue whose items look for a match")
    right: str = Field(description="name of the catalogue they look in")
    checks: CheckSettings = CheckSettings()
    owners: tuple[str, ...] = ()
    tags: dict[str, str] = Field(default_factory=dict)
    description: str | None = None
