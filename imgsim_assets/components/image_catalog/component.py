"""The component `imgsim_assets.ImageCatalogComponent`: one catalog from source to graph."""

from __future__ import annotations

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.automation import sensor
from imgsim_assets.components.base import YamlComponent
from imgsim_assets.components.duplicate_groups.groups import groups_asset
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.image_catalog.embeddings import embeddings_asset
from imgsim_assets.components.image_catalog.evaluation import evaluation_asset
from imgsim_assets.components.image_catalog.images import images_asset
from imgsim_assets.components.image_catalog.index import graph_asset, index_asset
from imgsim_assets.components.image_catalog.items import catalog_asset, source_asset
from imgsim_assets.components.image_catalog.pipelined import streamed_assets
from imgsim_assets.components.image_catalog.schedule import refresh_job, refresh_schedule
from imgsim_assets.components.project import Project, tables_of
from imgsim_assets.components.tables import IO_MANAGER
from imgsim_assets.encoders.settings import AUTO
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.settings import Settings


class ImageCatalogComponent(YamlComponent):
    """A catalog of image URLs, downloaded, embedded, indexed and linked into a graph."""

    settings_type: ClassVar[type[Settings]] = CatalogSettings

    @property
    def settings(self) -> CatalogSettings:
        """The catalog as declared."""
        settings: CatalogSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The catalog's assets in the order of the pipeline, its refresh job and schedule."""
        self._check(context)
        project = Project(context.project_root)
        blueprint = CatalogContext(
            self.settings,
            project,
            source_place=self.place(context, ["source", "path"]),
            weights_place=self.place(context, ["encoder", "weights"]),
        )
        for problem in filter(None, (blueprint.missing_source(), blueprint.missing_weights())):
            dg.get_dagster_logger().warning(f"{problem}; what needs it fails until it is there")
        assets = [
            source_asset(blueprint),
            catalog_asset(blueprint),
            *_images_and_vectors(blueprint),
            index_asset(blueprint),
            graph_asset(blueprint),
        ]
        if self.settings.report is not None:
            assets.append(evaluation_asset(blueprint, self.settings.report))
        if self.settings.groups is not None:
            assets.append(groups_asset(blueprint, self.settings.groups))
        job = refresh_job(blueprint)
        return dg.Definitions(
            assets=assets,
            jobs=[job],
            schedules=refresh_schedule(blueprint, job),
            sensors=[sensor()] if self._is_first(context) else [],
            resources={IO_MANAGER: tables_of(project.root)},
        )

    def _is_first(self, context: dg.ComponentLoadContext) -> bool:
        """Whether this catalog is the one that brings what a project needs once."""
        return self.settings.name == min(other.settings.name for other in self.all_like_it(context))

    def _check(self, context: dg.ComponentLoadContext) -> None:
        """What can only be checked where the project is known."""
        settings = self.settings
        of_groups = settings.groups.threshold if settings.groups is not None else None
        for part, threshold in (("graph", settings.graph.threshold), ("groups", of_groups)):
            if threshold == AUTO and settings.report is None:
                raise self.error(
                    context,
                    [part, "threshold"],
                    "auto needs a report about the encoder; set 'report: {}' too, or give a number",
                )
        self.check_cron(context, "schedule", settings.schedule)
        self.check_cron(context, "watch", settings.watch)
        self.check_timezone(context, settings.timezone)
        self.check_name(context, "catalogs")
        self.check_people_and_tags(context, settings.owners, settings.tags)


def _images_and_vectors(blueprint: CatalogContext) -> list[dg.AssetsDefinition]:
    """The assets `images` and `embeddings`: a step for each, or one that streams them."""
    if blueprint.settings.stream:
        return [streamed_assets(blueprint)]
    return [images_asset(blueprint), embeddings_asset(blueprint)]
