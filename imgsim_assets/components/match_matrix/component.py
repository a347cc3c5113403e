"""The component `imgsim_assets.MatchMatrixComponent`: the match table of two catalogs."""

from __future__ import annotations

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.base import YamlComponent
from imgsim_assets.components.match_matrix.known_catalogs import (
    incomparable,
    known_catalogs,
    no_report,
    reporting,
    unknown,
)
from imgsim_assets.components.match_matrix.matches import match_asset
from imgsim_assets.components.project import Project, tables_of
from imgsim_assets.components.tables import IO_MANAGER
from imgsim_assets.encoders.settings import AUTO
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.settings import Settings


class MatchMatrixComponent(YamlComponent):
    """Which items of a left catalog show the same as items of a right one."""

    settings_type: ClassVar[type[Settings]] = MatchMatrixSettings

    @property
    def settings(self) -> MatchMatrixSettings:
        """The pair as declared."""
        settings: MatchMatrixSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The match table, below exactly its two catalogs."""
        self._check(context)
        project = Project(context.project_root)
        return dg.Definitions(
            assets=[match_asset(self.settings, project, self._reports(context))],
            resources={IO_MANAGER: tables_of(project.root)},
        )

    def _reports(self, context: dg.ComponentLoadContext) -> list[str]:
        """With `threshold: auto`, those of the two catalogs that measure their encoder."""
        if self.settings.threshold != AUTO:
            return []
        sides = list(dict.fromkeys((self.settings.left, self.settings.right)))
        found = reporting(sides, known_catalogs(context))
        if not found:
            raise self.error(context, ["threshold"], no_report(sides))
        return found

    def _check(self, context: dg.ComponentLoadContext) -> None:
        catalogs = known_catalogs(context)
        sides = {"left": self.settings.left, "right": self.settings.right}
        for key, name in sides.items():
            if name not in catalogs:
                raise self.error(context, [key], unknown(name, catalogs))
        if self.settings.left == self.settings.right:
            raise self.error(
                context,
                ["right"],
                f"it is the left catalog too, and every item would match itself; "
                f"{self.settings.left}/similarity_graph compares a catalog with itself",
            )
        self.check_name(context, "match tables")
        problem = incomparable(*(catalogs[name] for name in sides.values()))
        if problem:
            raise self.error(context, ["right"], problem)
        self.check_people_and_tags(context, self.settings.owners, self.settings.tags)
