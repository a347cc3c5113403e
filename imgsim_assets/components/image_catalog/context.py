"""What all assets of one catalog share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.asset_kwargs import AssetKwargs, asset_kwargs
from imgsim_assets.components.automation import freshness
from imgsim_assets.components.checks import invariant_spec
from imgsim_assets.components.store.resource import open_store
from imgsim_assets.encoders.settings import needs_measuring
from imgsim_assets.errors import SettingsError, SourceError, describe_error
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.similarity.settings import GraphSettings, GroupSettings
from imgsim_assets.storage.shards import shard_names

if TYPE_CHECKING:
    from imgsim_assets.pipeline.catalog import CatalogPipeline


def _default_key(*path: str) -> dg.AssetKey:
    return dg.AssetKey(path)


@dataclass(frozen=True)
class CatalogContext:
    """One catalog's settings within a project.

    Attributes:
        settings: the catalog as declared.
        root: the project's root.
        source_location: file, line and key of the source in the YAML file.
        weights_location: file, line and key of the encoder's weights file.
        asset_key: the key, in the project, of an asset whose key has the given parts otherwise.
        table_names: the name of the table, by the key of each asset that was asked for.
    """

    settings: CatalogSettings
    root: Path
    source_location: str
    weights_location: str
    asset_key: Callable[..., dg.AssetKey] = _default_key
    table_names: dict[dg.AssetKey, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The catalog's name."""
        return self.settings.name

    def problems(self) -> list[str]:
        """Missing files; they fail the runs that need them, and no other catalog."""
        return [problem for problem in (self._missing_source(), self._missing_weights()) if problem]

    def _missing_source(self) -> str | None:
        problem = self.settings.missing_source(self.root)
        return f"{self.source_location}: {problem}" if problem else None

    def missing_columns(self) -> str | None:
        """The problem with declared columns that the list lacks; imports what reads lists."""
        problem = None if self._missing_source() else self.settings.missing_columns(self.root)
        return f"{self.source_location}: {problem}" if problem else None

    def _missing_weights(self) -> str | None:
        problem = self.settings.missing_weights(self.root)
        return f"{self.weights_location}: {problem}" if problem else None

    def require_source(self) -> None:
        """Raise SourceError, with its location in the YAML file, when a local source is missing."""
        if problem := self._missing_source():
            raise SourceError(problem)

    def require_weights(self) -> None:
        """Raise SettingsError, with its location in the YAML file, when weights are missing."""
        if problem := self._missing_weights():
            raise SettingsError(problem)

    def pipeline(self, context: dg.AssetExecutionContext, **options: Any) -> CatalogPipeline:
        """The catalog's pipeline over the project's store, within a run."""
        from imgsim_assets.pipeline.catalog import CatalogPipeline

        return CatalogPipeline(
            open_store(context),
            self.settings,
            root=self.root,
            log=context.log.info,
            warn=context.log.warning,
            log_exception=partial(_log_failure, context.log),
            **options,
        )

    @property
    def partitions(self) -> dg.StaticPartitionsDefinition:
        """The shards as Dagster partitions."""
        return dg.StaticPartitionsDefinition(shard_names(self.settings.shards))

    @property
    def backfill_policy(self) -> dg.BackfillPolicy:
        """How many shards one run of a backfill takes."""
        per_run = self.settings.max_shards_per_run
        return dg.BackfillPolicy.multi_run(per_run) if per_run else dg.BackfillPolicy.single_run()

    @property
    def freshness(self) -> dg.FreshnessPolicy | None:
        """When an asset that the schedule materializes is stale."""
        return freshness(self.settings.schedule, self.settings.timezone)

    def key(self, asset: str) -> dg.AssetKey:
        """The key of one of the catalog's assets; a name may have several parts."""
        key = self.asset_key(self.name, *asset.split("/"))
        self.table_names[key] = f"{self.name}/{asset}"
        return key

    def threshold_deps(self, settings: GraphSettings | GroupSettings) -> list[dg.AssetKey]:
        """The asset that decides a threshold: the evaluation of the encoder, where declared.

        It measures no threshold over orientations.
        """
        is_declared = self.settings.evaluation is not None and not settings.orientations
        needs_it = needs_measuring(settings.threshold, self.settings.encoder)
        return [self.key("encoder_evaluation")] if is_declared and needs_it else []

    def asset_kwargs(self, asset: str, kinds: Iterable[str]) -> AssetKwargs:
        """The shared arguments of one of the catalog's assets."""
        return asset_kwargs(self.key(asset), self.name, self.settings, kinds)

    def check_spec(
        self, asset: str, name: str, description: str, *, blocking: bool = False
    ) -> dg.AssetCheckSpec:
        """A check that the asset's own step evaluates; a blocking one stops downstream assets."""
        return dg.AssetCheckSpec(
            name, asset=self.key(asset), description=description, blocking=blocking
        )

    def invariant_spec(self, asset: str, name: str, description: str) -> dg.AssetCheckSpec:
        """A check that the asset's own step evaluates, and that must hold."""
        return invariant_spec(self.key(asset), name, description, self.settings.checks)


def _log_failure(log: dg.DagsterLogManager, message: str) -> None:
    """Log the exception that is being handled: in one line, or with the traceback of a bug."""
    error = sys.exception()
    described = describe_error(error) if error is not None else None
    if described is None:
        log.exception(message)
    else:
        log.error(f"{message}: {described}")
