"""Everything a person declares about one catalog."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderChoice, EncoderSettings, EvaluationSettings
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.settings import Settings
from imgsim_assets.similarity.settings import (
    CrossCatalogGroupSettings,
    GraphSettings,
    GroupSettings,
    MatchSettings,
)

NAME_PATTERN = r"^[a-z][a-z0-9_]*$"
# Names that would mix a catalog's tables with those of several catalogs.
RESERVED = {"matches": "match tables", "duplicate_groups": "groups across catalogs"}
Severity = Literal["warn", "error"]


def _from_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


# In YAML a source may be just its path.
SourceChoice = Annotated[
    SourceSettings, BeforeValidator(_from_path, json_schema_input_type=str | SourceSettings)
]


def _is_list(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{value!r} is no list; write one, such as [{value}]")
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_is_list)]


class CheckSettings(Settings):
    """When the asset checks of a catalog complain."""

    min_success_rate: float = Field(
        0.5, ge=0, le=1, description="least share of items with an image"
    )
    severity: Severity = Field(
        "warn", description="of what checks measure; 'error' stops what hangs on too few images"
    )
    max_removed_fraction: float = Field(
        0.5, ge=0, le=1, description="largest share of its items that a source may lose at once"
    )
    max_drift: float = Field(
        0.2, ge=0, le=1, description="how far similarities may move from one version to the next"
    )
    sample: int = Field(50, ge=1, le=10_000, description="items that sampled checks look at")


class CatalogSettings(Settings):
    """A catalog of images: where it comes from and how it is worked on."""

    name: str = Field(
        pattern=NAME_PATTERN, max_length=64, description="lower case, digits and underscores"
    )
    source: SourceChoice
    shards: int = Field(4, ge=1, le=4096, description="partitions that the items are split into")
    encoder: EncoderChoice = EncoderSettings()
    download: DownloadSettings = DownloadSettings()
    stream: bool = Field(
        False, description="embed what has been fetched while the rest is still on its way"
    )
    index: IndexSettings = IndexSettings()
    graph: GraphSettings = GraphSettings()
    report: EvaluationSettings | None = Field(
        None, description="measure the encoder on this catalog's images; '{}' for the defaults"
    )
    groups: GroupSettings | None = Field(
        None, description="duplicate groups; without it there is no such asset"
    )
    checks: CheckSettings = CheckSettings()
    schedule: str | None = Field(None, description="cron expression of the refresh")
    watch: str | None = Field(
        None, description="cron expression of looking for changes of the source"
    )
    timezone: str = Field("UTC", description="of both cron expressions")
    automation: bool = Field(
        True, description="start what hangs on data or settings that changed, without being asked"
    )
    max_shards_per_run: int | None = Field(
        None, ge=1, description="split backfills into runs of so many shards; default: one run"
    )
    owners: Names = Field((), description="e-mail addresses or team:NAME")
    tags: dict[str, str] = Field(default_factory=dict)
    description: str | None = None

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value in RESERVED:
            raise ValueError(f"{value!r} is where {RESERVED[value]} live; choose another name")
        return value

    @field_validator("report", "groups", mode="before")
    @classmethod
    def _not_left_blank(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            raise ValueError(
                f"nothing stands behind it; write '{info.field_name}: {{}}' for the defaults, or "
                "remove the key"
            )
        return value


class MatchMatrixSettings(MatchSettings):
    """A match table of two catalogs."""

    name: str = Field(
        pattern=NAME_PATTERN,
        max_length=130,
        description="of the table; left__right is a good one",
    )
    left: str = Field(description="name of the catalog whose items look for a match")
    right: str = Field(description="name of the catalog they look in")
    automation: bool = Field(True, description="start when one of the catalogs changed")
    checks: CheckSettings = CheckSettings()
    owners: Names = ()
    tags: dict[str, str] = Field(default_factory=dict)
    description: str | None = None


class DuplicateGroupsSettings(CrossCatalogGroupSettings):
    """The duplicate groups of several catalogs together."""

    name: str = Field(pattern=NAME_PATTERN, max_length=130, description="of the table")
    catalogs: Names = Field(description="names of the catalogs, in their order of priority")
    automation: bool = Field(True, description="start when one of the catalogs changed")
    owners: Names = ()
    tags: dict[str, str] = Field(default_factory=dict)
    description: str | None = None

    @field_validator("catalogs")
    @classmethod
    def _are_several(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) < 2:
            raise ValueError(
                "two catalogs or more are grouped together; of a single one it is its own "
                "'groups: {}'"
            )
        return value
