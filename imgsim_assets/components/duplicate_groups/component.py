"""The component `imgsim_assets.DuplicateGroupsComponent`: groups across several catalogs."""

from __future__ import annotations

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.declared_catalogs import ComparingComponent, declared_catalogs
from imgsim_assets.components.duplicate_groups.groups import cross_catalog_groups_asset
from imgsim_assets.components.duplicate_groups.scaffolder import DuplicateGroupsScaffolder
from imgsim_assets.components.exact_time import warn_of_exact_time
from imgsim_assets.components.reviews import group_reviews
from imgsim_assets.components.store.component import default_resources
from imgsim_assets.pipeline.settings import DuplicateGroupsSettings
from imgsim_assets.settings import Settings
from imgsim_assets.similarity.settings import CROSS_CATALOG_GROUPS, METHOD


@dg.scaffold_with(DuplicateGroupsScaffolder)
class DuplicateGroupsComponent(ComparingComponent):
    """The items that show the same, within and across catalogs, by group."""

    settings_type: ClassVar[type[Settings]] = DuplicateGroupsSettings

    @property
    def settings(self) -> DuplicateGroupsSettings:
        """The groups as declared."""
        settings: DuplicateGroupsSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The table of groups, downstream of the indexes of its catalogs."""
        settings, names = self.settings, self.settings.catalogs
        self.check_catalogs(context, [("catalogs", name) for name in names])
        for name in names:
            if names.count(name) > 1:
                raise self.error(context, ["catalogs"], f"{name!r} is listed twice; list it once")
        self.check_name(context, "tables of groups")
        if settings.name in declared_catalogs(context):
            raise self.error(
                context,
                ["name"],
                f"{settings.name!r} is a catalog, whose own groups are reviewed under this name; "
                "choose another",
            )
        self.check_owners_and_tags(context, settings.owners, settings.tags)
        self.check_compute(context)
        evaluated = self.catalogs_with_evaluation(context, names)
        root, path = context.project_root, (CROSS_CATALOG_GROUPS, settings.name)
        reviews = (
            group_reviews(settings.name, names, settings.reviews, root)
            if settings.reviews is not None
            else None
        )
        inputs, table_names = self.observed_inputs(context, path, reviews)
        key = self.asset_key(*path)
        table_names[key] = "/".join(path)
        warn_of_exact_time(context, self.location(context, [METHOD]), key, settings, names)
        table = cross_catalog_groups_asset(
            settings,
            self.project_keys(context),
            evaluated,
            root,
            [each.spec.key for each in inputs],
            self.encoders(context, names),
            reviews,
        )
        return dg.Definitions(
            assets=self.translated([table, *(each.asset() for each in inputs)], table_names),
            sensors=[each.sensor() for each in inputs if settings.automation],
            resources=default_resources(context),
        )
