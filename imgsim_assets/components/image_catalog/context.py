"""What all assets of one catalog have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import dagster as dg

from imgsim_assets.catalog.source import check_source_exists
from imgsim_assets.components.automation import freshness, on_new_data, tagged
from imgsim_assets.components.project import Project
from imgsim_assets.encoders.settings import AUTO, EncoderSettings
from imgsim_assets.errors import SettingsError, SourceError
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.storage.shards import shard_names

# Pools whose limits keep runs from crowding the network and the GPU; see docs/schedule.md.
NETWORK_POOL = "network"
GPU_POOL = "gpu"


class AssetKwargs(TypedDict):
    """Arguments that the decorators of all assets of a catalog share."""

    key: dg.AssetKey
    group_name: str
    owners: list[str]
    tags: dict[str, str]
    kinds: set[str]
    automation_condition: dg.AutomationCondition | None


class AssetSpecKwargs(AssetKwargs):
    """What an asset is, whichever step materializes it: arguments of an asset and of a spec."""

    deps: list[dg.AssetKey]
    description: str
    metadata: dict[str, Any]
    code_version: str


@dataclass(frozen=True)
class CatalogContext:
    """One catalog's settings within its project.

    The places are those of the keys in the YAML file, for errors of runs about what they name.
    A file that is missing must not keep other catalogs from being loaded and run.
    """

    settings: CatalogSettings
    project: Project
    source_place: str
    weights_place: str

    @property
    def name(self) -> str:
        """The catalog's name."""
        return self.settings.name

    @property
    def encoder(self) -> EncoderSettings:
        """The encoder, its weights file found from the project's root.

        Raises SettingsError when there is no such file.
        """
        if problem := self.missing_weights():
            raise SettingsError(problem)
        return self.settings.encoder.located(self.project.root)

    def check_source(self) -> None:
        """Raise SourceError for a local source that is not there."""
        if problem := self.missing_source():
            raise SourceError(problem)

    def missing_source(self) -> str | None:
        """The problem with a local source that is not there; None if it is, or is remote."""
        try:
            check_source_exists(self.settings.source, self.project.root)
        except SourceError as error:
            return f"{self.source_place}: {error}"
        return None

    def missing_weights(self) -> str | None:
        """The problem with a weights file that is not there; None if it is, or none is named."""
        weights = self.settings.encoder.located(self.project.root).weights_file
        if weights is None or Path(weights).is_file():
            return None
        return (
            f"{self.weights_place}: there is no file {weights}; give the path of a state dict "
            f"(.pth), relative to {self.project.root}"
        )

    @property
    def partitions(self) -> dg.StaticPartitionsDefinition:
        """The shards as Dagster partitions."""
        return dg.StaticPartitionsDefinition(shard_names(self.settings.shards))

    @property
    def backfill_policy(self) -> dg.BackfillPolicy:
        """How many shards one run of a backfill takes."""
        most = self.settings.max_shards_per_run
        return dg.BackfillPolicy.multi_run(most) if most else dg.BackfillPolicy.single_run()

    @property
    def freshness(self) -> dg.FreshnessPolicy | None:
        """When an asset that the schedule materializes is stale."""
        return freshness(self.settings.schedule, self.settings.timezone)

    def key(self, stage: str) -> dg.AssetKey:
        """The key of one of the catalog's assets."""
        return dg.AssetKey([self.name, stage])

    def advice(self, threshold: float | str | None) -> list[dg.AssetKey]:
        """What a threshold depends on: with auto the report about the encoder."""
        return [self.key("encoder_evaluation")] if threshold == AUTO else []

    def basics(self, stage: str, kinds: Iterable[str]) -> AssetKwargs:
        """The shared arguments for one of the catalog's assets."""
        return {
            "key": self.key(stage),
            "group_name": self.name,
            "owners": list(self.settings.owners),
            "tags": tagged(self.settings.tags, automated=self.settings.automation),
            "kinds": set(kinds),
            "automation_condition": on_new_data() if self.settings.automation else None,
        }

    def check(
        self, stage: str, name: str, description: str, *, blocking: bool = False
    ) -> dg.AssetCheckSpec:
        """A check that the asset's own step evaluates; a blocking one stops what hangs on it."""
        return dg.AssetCheckSpec(
            name, asset=self.key(stage), description=description, blocking=blocking
        )


def code_version(stage_version: str, *decisive: Any) -> str:
    """A code version that changes with the stage's code and with the settings it depends on."""
    if not decisive:
        return stage_version
    listed = json.dumps(decisive, sort_keys=True, default=str)
    return f"{stage_version}-{hashlib.sha256(listed.encode()).hexdigest()[:8]}"
