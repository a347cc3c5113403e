"""The settings of everything that a project declares: one class per declared thing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import check_source_exists
from imgsim_assets.compute.settings import Compute, ComputeSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderChoice, EncoderSettings, EvaluationSettings
from imgsim_assets.errors import SourceError
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.settings import Names, Settings
from imgsim_assets.similarity.settings import (
    REVIEWS_FILE,
    CrossCatalogGroupSettings,
    GraphSettings,
    GroupSettings,
    MatchSettings,
)
from imgsim_assets.storage.settings import ExportSettings, RetentionPolicy

NAME_PATTERN = r"^[a-z][a-z0-9_]*$"
# Names that would mix a catalog's tables with those of several catalogs.
RESERVED = {
    "matches": "match tables",
    "duplicate_groups": "groups across catalogs",
    "image_features": "local features of images",
    "reviews": "people's decisions",
    "thresholds": "thresholds that decisions have moved",
    "image_thumbnails": "thumbnails of images",
}
Severity = Literal["warn", "error"]
_OWNERS = "e-mail addresses or team:NAME, shown in Dagster's UI"
_TAGS = "tags of the assets, shown in Dagster's UI"
_DESCRIPTION = "text for Dagster's UI"


def _from_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


# In YAML a source may be just its path.
SourceChoice = Annotated[
    SourceSettings, BeforeValidator(_from_path, json_schema_input_type=str | SourceSettings)
]


class TranslationSettings(Settings):
    """How the assets of a component are named and grouped in a project."""

    key: str | None = Field(None, description="asset key, with a slash between its parts")
    key_prefix: tuple[str, ...] | None = Field(
        None, description="what the key begins with, such as eu or [eu, shop]"
    )
    group_name: str | None = Field(None, description="group of the asset")
    description: str | None = Field(None, description="instead of the asset's own")
    owners: Names | None = Field(None, description="e-mail addresses or team:NAME")
    tags: dict[str, str] = Field(default_factory=dict, description="added to the asset's tags")
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="added to the asset's metadata"
    )
    kinds: Names = Field((), description="added to the asset's kinds")

    @field_validator("key_prefix", mode="before")
    @classmethod
    def _parts(cls, value: Any) -> Any:
        return tuple(value.split("/")) if isinstance(value, str) else value


# Templates in it are resolved for each asset.
Translation = Annotated[
    dict[str, Any] | str,
    BeforeValidator(lambda value: value, json_schema_input_type=TranslationSettings | str),
]
_TRANSLATION = (
    "changes of every asset of this component, such as {key_prefix: eu}; templates see the asset "
    "as 'spec'"
)


class CheckSettings(Settings):
    """The limits of the asset checks."""

    min_success_rate: float = Field(
        0.5, ge=0, le=1, description="smallest fraction of images that are fetched"
    )
    severity: Severity = Field(
        "warn",
        description="of checks that measure; 'error' also stops downstream assets when too few "
        "images are fetched",
    )
    invariant_severity: Severity = Field(
        "error",
        description="of checks that must hold (unique ids, normalized vectors, an index of exactly "
        "the embedded images); 'error' stops downstream assets, 'warn' lets them run",
    )
    audit_schedule: str | None = Field(
        "0 5 * * 0",
        description="cron expression of the audits, which read whole tables; null for never",
    )
    max_removed_fraction: float = Field(
        0.5, ge=0, le=1, description="largest fraction of items that a source may lose at once"
    )
    max_drift: float = Field(
        0.2, ge=0, le=1, description="largest distance between the similarities of two versions"
    )
    max_group_fraction: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest fraction of the items in one duplicate group of more than 10 items",
    )
    max_similarity_gap: float = Field(
        0.1,
        ge=0,
        le=2,
        description="how far a duplicate group's minimum similarity may be below the threshold",
    )
    max_bridged_items: int = Field(
        2,
        ge=0,
        description="most items that a single link may join to more than as many others in a "
        "duplicate group",
    )
    sample_size: int = Field(50, ge=1, le=10_000, description="items that sampled checks look at")


class CatalogSettings(Settings):
    """An image catalog: its source, and how it is downloaded, embedded and compared."""

    name: str = Field(
        pattern=NAME_PATTERN, max_length=64, description="lower case, digits and underscores"
    )
    source: SourceChoice
    shards: int = Field(4, ge=1, le=4096, description="partitions that the items are split into")
    encoder: EncoderChoice = EncoderSettings()
    download: DownloadSettings = DownloadSettings()
    pipelined: bool = Field(
        False, description="embed fetched images while others are still being fetched"
    )
    index: IndexSettings = IndexSettings()
    graph: GraphSettings = GraphSettings()
    evaluation: EvaluationSettings | None = Field(
        None, description="measure the encoder on this catalog's images; '{}' for the defaults"
    )
    groups: GroupSettings | None = Field(
        None, description="find duplicate groups; '{}' for the defaults"
    )
    compute: Compute = ComputeSettings()
    export: ExportSettings | None = Field(
        None, description="export the similarity graph and the groups to Delta tables, too"
    )
    checks: CheckSettings = CheckSettings()
    schedule: str | None = Field(None, description="cron expression of the refresh")
    observe_schedule: str | None = Field(
        None, description="cron expression of the times at which a sensor observes the source"
    )
    timezone: str = Field("UTC", description="of both cron expressions")
    automation: bool = Field(
        True, description="materialize assets whose data or settings changed, without a schedule"
    )
    executor: Literal["auto", "in_process", "project"] = Field(
        "auto",
        description="of the refresh: 'in_process' runs all steps in the run's process, 'project' "
        "leaves it to the project; auto is in_process up to 4 shards",
    )
    max_shards_per_run: int | None = Field(
        None, ge=1, description="shards that one run of a backfill takes; default: all"
    )
    owners: Names = Field((), description=_OWNERS)
    tags: dict[str, str] = Field(default_factory=dict, description=_TAGS)
    description: str | None = Field(None, description=_DESCRIPTION)
    translation: Translation | None = Field(None, description=_TRANSLATION)

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value in RESERVED:
            raise ValueError(f"{value!r} holds {RESERVED[value]}; choose another name")
        return value

    @field_validator("evaluation", "groups", mode="before")
    @classmethod
    def _not_left_blank(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            raise ValueError(
                f"the key has no value; write '{info.field_name}: {{}}' for the defaults, or "
                "remove the key"
            )
        return value

    def missing_source(self, root: Path) -> str | None:
        """The problem with a local source that is missing; None if it exists or is remote."""
        try:
            check_source_exists(self.source, root)
        except SourceError as error:
            return str(error)
        return None

    def missing_columns(self, root: Path) -> str | None:
        """The problem with declared columns that a local list lacks, as its first lines tell.

        None where it has them, where no column is declared, and where only a run can tell. The
        libraries that read lists are imported.
        """
        source = self.source
        if source.path is None or "://" in source.path or not (source.id or source.url_columns):
            return None
        from imgsim_assets.catalog.columns import require_declared
        from imgsim_assets.catalog.reader import read_column_names
        from imgsim_assets.catalog.source import open_source

        try:
            names = read_column_names(open_source(source, root))
            if names is not None:
                require_declared(names, source)
        except SourceError as error:
            return str(error)
        return None

    def missing_weights(self, root: Path) -> str | None:
        """The problem with a weights file that is missing; None if it exists or none is named."""
        weights = self.encoder.with_absolute_weights(root).weights_file
        if weights is None or Path(weights).is_file():
            return None
        return (
            f"there is no file {str(weights)!r}; give the path of a state dict (.pth), relative to "
            f"{root}"
        )


class MatchMatrixSettings(MatchSettings):
    """A match table of two catalogs."""

    name: str = Field(
        pattern=NAME_PATTERN,
        max_length=130,
        description="of the table, such as left__right",
    )
    left: str = Field(description="name of the catalog whose items look for a match")
    right: str = Field(description="name of the catalog they look in")
    reviews: str | None = Field(
        None,
        min_length=1,
        description=REVIEWS_FILE,
    )
    compute: Compute = ComputeSettings()
    automation: bool = Field(True, description="materialize when one of the catalogs changed")
    export: ExportSettings | None = Field(None, description="export to a Delta table, too")
    gallery: bool = Field(
        False, description="keep a page with the images of each version, linked in the metadata"
    )
    checks: CheckSettings = CheckSettings()
    owners: Names = Field((), description=_OWNERS)
    tags: dict[str, str] = Field(default_factory=dict, description=_TAGS)
    description: str | None = Field(None, description=_DESCRIPTION)
    translation: Translation | None = Field(None, description=_TRANSLATION)


class StoreSettings(Settings):
    """Where a project's tables and images are."""

    url: str | None = Field(
        None,
        description="local path (from the project's root) or fsspec URL; default: the environment "
        "variable IMGSIM_STORE, else data/store",
    )
    single_writer: bool | None = Field(
        None,
        description="whether only one run writes at a time, which an object store without "
        "conditional writes requires; default: IMGSIM_SINGLE_WRITER, else false",
    )


class AutomationSettings(Settings):
    """How often changes are looked for, and whether that starts by itself."""

    name: str = Field(
        "imgsim_automation", pattern=r"^\w+$", description="of the sensor, as Dagster shows it"
    )
    interval_s: int = Field(10, ge=1, description="seconds between two evaluations")
    default_status: Literal["running", "stopped"] = Field(
        "running", description="of the sensor until somebody switches it on or off"
    )


class RetentionSettings(RetentionPolicy):
    """What a store keeps, and when the rest is deleted."""

    schedule: str | None = Field("30 4 * * 0", description="cron expression; null for never")
    timezone: str = Field("UTC", description="of the schedule")


class DuplicateGroupsSettings(CrossCatalogGroupSettings):
    """The duplicate groups of several catalogs together."""

    name: str = Field(pattern=NAME_PATTERN, max_length=130, description="of the table")
    catalogs: Names = Field(description="names of the catalogs, in their order of priority")
    reviews: str | None = Field(
        None, min_length=1, description=f"{REVIEWS_FILE}; an id is catalog/id"
    )
    compute: Compute = ComputeSettings()
    automation: bool = Field(True, description="materialize when one of the catalogs changed")
    export: ExportSettings | None = Field(None, description="export to a Delta table, too")
    checks: CheckSettings = CheckSettings()
    owners: Names = Field((), description=_OWNERS)
    tags: dict[str, str] = Field(default_factory=dict, description=_TAGS)
    description: str | None = Field(None, description=_DESCRIPTION)
    translation: Translation | None = Field(None, description=_TRANSLATION)

    @field_validator("catalogs")
    @classmethod
    def _are_several(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) < 2:
            raise ValueError(
                "list two catalogs or more; for a single catalog set 'groups: {}' of the catalog"
            )
        return value
