"""The component `imgsim_assets.MatchMatrix`: the match table of two catalogues."""

from __future__ import annotations

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.catalogue_settings import MatchMatrixSettings
from imgsim_assets.components.declared import DeclaredComponent
from imgsim_assets.components.known_catalogues import (
    incomparable,
    known_catalogues,
    no_report,
    reporting,
    unknown,
)
from imgsim_assets.components.match_assets import match_asset
from imgsim_assets.components.project import Project, tables_of
from imgsim_assets.components.tables import IO_MANAGER
from imgsim_assets.settings import Settings
from imgsim_assets.similarity.settings import AUTO


class MatchMatrix(DeclaredComponent):
    """Which items of a left catalogue show the same as items of a right one."""

    settings_type: ClassVar[type[Settings]] = MatchMatrixSettings

    @property
    def settings(self) -> MatchMatrixSettings:
        """The pair as declared."""
        settings: MatchMatrixSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The match table, below exactly its two catalogues."""
        self._check(context)
        project = Project(context.project_root)
        return dg.Definitions(
            assets=[match_asset(self.settings, project, self._reports(context))],
            resources={IO_MANAGER: tables_of(project.root)},
        )

    def _reports(self, context: dg.ComponentLoadContext) -> list[str]:
        """With `threshold: auto`, those of the two catalogues that measure their encoder."""
        if self.settings.threshold != AUTO:
            return []
        sides = list(dict.fromkeys((self.settings.left, self.settings.right)))
        found = reporting(sides, known_catalogues(context))
        if not found:
            raise self.error(context, ["threshold"], no_report(sides))
        return found

    def _check(self, context: dg.ComponentLoadContext) -> None:
        catalogues = known_catalogues(context)
        sides = {"left": self.settings.left, "right": self.settings.right}
        for key, name in sides.items():
            if name not in catalogues:
                raise self.error(context, [key], unknown(name, catalogues))
        if self.settings.left == self.settings.right:
            raise self.error(
                context,
                ["right"],
                f"it is the left catalogue too, and every item would match itself; "
                f"{self.settings.left}/similarity_graph compares a catalogue with itself",
            )
        self.check_name(context, "match tables")
        problem = incomparable(*(catalogues[name] for name in sides.values()))
        if problem:
            raise self.error(context, ["right"], problem)
        self.check_people_and_tags(context, self.settings.owners, self.settings.tags)
