"""The component `imgsim_assets.DuplicateGroupsComponent`: groups across several catalogs."""

from __future__ import annotations

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.declared_catalogs import ComparingComponent
from imgsim_assets.components.duplicate_groups.groups import cross_catalog_groups_asset
from imgsim_assets.components.duplicate_groups.scaffolder import DuplicateGroupsScaffolder
from imgsim_assets.components.ignore_list import IGNORE_LIST, ignore_list_asset, ignore_list_sensor
from imgsim_assets.components.store.component import default_resources
from imgsim_assets.pipeline.settings import DuplicateGroupsSettings
from imgsim_assets.settings import Settings
from imgsim_assets.similarity.settings import CROSS_CATALOG_GROUPS


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
        self.check_owners_and_tags(context, settings.owners, settings.tags)
        evaluated = self.catalogs_with_evaluation(context, names)
        root, path = context.project_root, (CROSS_CATALOG_GROUPS, settings.name)
        table_names = {self.asset_key(*path): "/".join(path)}
        listed = None
        ignored: list[dg.AssetsDefinition] = []
        sensors: list[dg.SensorDefinition] = []
        if settings.ignore is not None:
            listed = self.asset_key(*path, IGNORE_LIST)
            table_names[listed] = "/".join((*path, IGNORE_LIST))
            ignored = [ignore_list_asset(listed, CROSS_CATALOG_GROUPS, settings.ignore, root)]
            if settings.automation:
                sensors = [ignore_list_sensor(listed, settings.ignore, root)]
        table = cross_catalog_groups_asset(
            settings,
            self.project_keys(context),
            evaluated,
            root,
            listed,
            self.encoders(context, names),
        )
        return dg.Definitions(
            assets=self.translated([table, *ignored], table_names),
            sensors=sensors,
            resources=default_resources(context),
        )
