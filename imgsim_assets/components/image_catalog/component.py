"""The component `imgsim_assets.ImageCatalogComponent`: one catalog from source to graph."""

from __future__ import annotations

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.audits import audit_job
from imgsim_assets.components.base import YamlComponent
from imgsim_assets.components.duplicate_groups.groups import (
    GROUPS_IGNORE_LIST,
    catalog_group_reviews,
    groups_asset,
)
from imgsim_assets.components.exact_time import warn_of_exact_time
from imgsim_assets.components.ignore_list import IGNORE_LIST, ignore_list
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.image_catalog.embeddings import embeddings_asset, vectors_audit
from imgsim_assets.components.image_catalog.evaluation import evaluation_asset
from imgsim_assets.components.image_catalog.images import images_asset
from imgsim_assets.components.image_catalog.index import index_asset, recall_audit
from imgsim_assets.components.image_catalog.items import items_asset
from imgsim_assets.components.image_catalog.pipelined import pipelined_assets
from imgsim_assets.components.image_catalog.scaffolder import ImageCatalogScaffolder
from imgsim_assets.components.image_catalog.schedule import refresh_job, refresh_schedule
from imgsim_assets.components.image_catalog.similarity_graph import (
    graph_audit,
    similarity_graph_asset,
)
from imgsim_assets.components.image_catalog.source import source_asset, source_sensors
from imgsim_assets.components.image_catalog.status import status_asset
from imgsim_assets.components.load_warning import is_validation, warn_of_missing, warn_once
from imgsim_assets.components.observed_input import ObservedInput
from imgsim_assets.components.project_tree import add_built
from imgsim_assets.components.store.component import default_resources
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.settings import Settings
from imgsim_assets.similarity.settings import METHOD


@dg.scaffold_with(ImageCatalogScaffolder)
class ImageCatalogComponent(YamlComponent):
    """A catalog of image URLs: downloaded, embedded, indexed, and linked into a graph."""

    settings_type: ClassVar[type[Settings]] = CatalogSettings

    @property
    def settings(self) -> CatalogSettings:
        """The catalog as declared."""
        settings: CatalogSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The catalog's assets in the order of the pipeline, its refresh job and schedule."""
        add_built(context, self)
        self._check(context)
        catalog = CatalogContext(
            self.settings,
            context.project_root,
            source_location=self.location(context, ["source", "path"]),
            weights_location=self.location(context, ["encoder", "weights"]),
            asset_key=self.asset_key,
        )
        for problem in catalog.problems():
            warn_of_missing(problem)
        if is_validation() and (lacking := catalog.missing_columns()):
            warn_once(f"{lacking}; runs of the catalog fail until then")
        self._warn_of_exact_times(context)
        audits = [vectors_audit(catalog), recall_audit(catalog), graph_audit(catalog)]
        audit_jobs, audit_schedules = audit_job(
            self.settings.name, audits, self.settings.checks, self.settings.timezone
        )
        job = refresh_job(catalog, audits)
        return dg.Definitions(
            assets=self.translated(_assets(catalog), catalog.table_names),
            asset_checks=audits,
            jobs=[job, *audit_jobs],
            schedules=[*refresh_schedule(catalog, job), *audit_schedules],
            sensors=[*source_sensors(catalog), *_input_sensors(catalog)],
            resources=default_resources(context),
        )

    def _warn_of_exact_times(self, context: dg.ComponentLoadContext) -> None:
        settings, name = self.settings, self.settings.name
        for asset, key, declared in (
            ("similarity_graph", "graph", settings.graph),
            ("duplicate_groups", "groups", settings.groups),
        ):
            if declared is not None:
                place = self.location(context, [key, METHOD])
                result = self.asset_key(name, asset)
                warn_of_exact_time(context, place, result, declared, [name])

    def _check(self, context: dg.ComponentLoadContext) -> None:
        """Check what can only be checked where the project is known."""
        settings = self.settings
        self.check_cron(context, "schedule", settings.schedule)
        self.check_cron(context, "observe_schedule", settings.observe_schedule)
        self.check_cron(context, "checks.audit_schedule", settings.checks.audit_schedule)
        self.check_timezone(context, settings.timezone)
        self.check_name(context, "catalogs")
        self.check_owners_and_tags(context, settings.owners, settings.tags)
        self.check_compute(context)


def _assets(catalog: CatalogContext) -> list[dg.AssetsDefinition]:
    settings = catalog.settings
    assets = [source_asset(catalog), items_asset(catalog)]
    if settings.pipelined:
        assets.append(pipelined_assets(catalog))
    else:
        assets += [images_asset(catalog), embeddings_asset(catalog)]
    assets += [status_asset(catalog), index_asset(catalog), similarity_graph_asset(catalog)]
    assets += [each.asset() for each in _inputs(catalog)]
    if settings.evaluation is not None:
        assets.append(evaluation_asset(catalog, settings.evaluation))
    if settings.groups is not None:
        assets.append(groups_asset(catalog, settings.groups))
    return assets


def _inputs(catalog: CatalogContext) -> list[ObservedInput]:
    """The ignore lists of the graph and the groups, and the file of decisions about groups."""
    settings = catalog.settings
    groups = settings.groups
    declared = {
        IGNORE_LIST: settings.graph.ignore,
        GROUPS_IGNORE_LIST: groups.ignore if groups is not None else None,
    }
    inputs = [
        ignore_list(catalog.key(name), settings.name, ignore, catalog.root)
        for name, ignore in declared.items()
        if ignore is not None
    ]
    reviews = catalog_group_reviews(catalog)
    if reviews is not None:
        key = catalog.asset_key(*reviews.path)
        catalog.table_names[key] = "/".join(reviews.path)
        inputs.append(reviews.observed(key, settings.name, settings))
    return inputs


def _input_sensors(catalog: CatalogContext) -> list[dg.SensorDefinition]:
    return [each.sensor() for each in _inputs(catalog) if catalog.settings.automation]
