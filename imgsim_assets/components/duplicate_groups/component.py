"""The component `imgsim_assets.DuplicateGroupsComponent`: what shows the same in several catalogs."""

from __future__ import annotations

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.base import YamlComponent
from imgsim_assets.components.duplicate_groups.groups import across_asset
from imgsim_assets.components.match_matrix.known_catalogs import (
    incomparable,
    known_catalogs,
    no_report,
    reporting,
    unknown,
)
from imgsim_assets.components.project import Project, tables_of
from imgsim_assets.components.tables import IO_MANAGER
from imgsim_assets.encoders.settings import AUTO
from imgsim_assets.pipeline.settings import DuplicateGroupsSettings
from imgsim_assets.settings import Settings


class DuplicateGroupsComponent(YamlComponent):
    """Which items show the same, within and across catalogs."""

    settings_type: ClassVar[type[Settings]] = DuplicateGroupsSettings

    @property
    def settings(self) -> DuplicateGroupsSettings:
        """The groups as declared."""
        settings: DuplicateGroupsSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The table of groups, below the indexes of its catalogs."""
        self._check(context)
        project = Project(context.project_root)
        return dg.Definitions(
            assets=[across_asset(self.settings, project, self._reports(context))],
            resources={IO_MANAGER: tables_of(project.root)},
        )

    def _reports(self, context: dg.ComponentLoadContext) -> list[str]:
        """With `threshold: auto`, those of the catalogs that measure their encoder."""
        if self.settings.threshold != AUTO:
            return []
        found = reporting(self.settings.catalogs, known_catalogs(context))
        if not found:
            raise self.error(context, ["threshold"], no_report(self.settings.catalogs))
        return found

    def _check(self, context: dg.ComponentLoadContext) -> None:
        known = known_catalogs(context)
        names = self.settings.catalogs
        for name in names:
            if name not in known:
                raise self.error(context, ["catalogs"], unknown(name, known))
            if names.count(name) > 1:
                raise self.error(context, ["catalogs"], f"{name!r} is listed twice; list it once")
        for name in names[1:]:
            problem = incomparable(known[names[0]], known[name])
            if problem:
                raise self.error(context, ["catalogs"], problem)
        self.check_name(context, "tables of groups")
        self.check_people_and_tags(context, self.settings.owners, self.settings.tags)
