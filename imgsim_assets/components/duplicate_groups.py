"""The component `imgsim_assets.DuplicateGroups`: what shows the same in several catalogues."""

from __future__ import annotations

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.catalogue_settings import DuplicateGroupsSettings
from imgsim_assets.components.declared import DeclaredComponent
from imgsim_assets.components.group_assets import across_asset
from imgsim_assets.components.known_catalogues import (
    incomparable,
    known_catalogues,
    no_report,
    reporting,
    unknown,
)
from imgsim_assets.components.project import Project, tables_of
from imgsim_assets.components.tables import IO_MANAGER
from imgsim_assets.settings import Settings
from imgsim_assets.similarity.settings import AUTO


class DuplicateGroups(DeclaredComponent):
    """Which items show the same, within and across catalogues."""

    settings_type: ClassVar[type[Settings]] = DuplicateGroupsSettings

    @property
    def settings(self) -> DuplicateGroupsSettings:
        """The groups as declared."""
        settings: DuplicateGroupsSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The table of groups, below the indexes of its catalogues."""
        self._check(context)
        project = Project(context.project_root)
        return dg.Definitions(
            assets=[across_asset(self.settings, project, self._reports(context))],
            resources={IO_MANAGER: tables_of(project.root)},
        )

    def _reports(self, context: dg.ComponentLoadContext) -> list[str]:
        """With `threshold: auto`, those of the catalogues that measure their encoder."""
        if self.settings.threshold != AUTO:
            return []
        found = reporting(self.settings.catalogues, known_catalogues(context))
        if not found:
            raise self.error(context, ["threshold"], no_report(self.settings.catalogues))
        return found

    def _check(self, context: dg.ComponentLoadContext) -> None:
        known = known_catalogues(context)
        names = self.settings.catalogues
        for name in names:
            if name not in known:
                raise self.error(context, ["catalogues"], unknown(name, known))
            if names.count(name) > 1:
                raise self.error(context, ["catalogues"], f"{name!r} is listed twice; list it once")
        for name in names[1:]:
            problem = incomparable(known[names[0]], known[name])
            if problem:
                raise self.error(context, ["catalogues"], problem)
        self.check_name(context, "tables of groups")
        self.check_people_and_tags(context, self.settings.owners, self.settings.tags)
