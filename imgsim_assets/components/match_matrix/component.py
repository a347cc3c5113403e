"""The component `imgsim_assets.MatchMatrixComponent`: the match table of two catalogs."""

from __future__ import annotations

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.audits import audit_job
from imgsim_assets.components.declared_catalogs import ComparingComponent
from imgsim_assets.components.ignore_list import IGNORE_LIST, ignore_list_asset, ignore_list_sensor
from imgsim_assets.components.match_matrix.matches import GROUP, matches_asset, matches_audit
from imgsim_assets.components.match_matrix.reviews import reviews_asset, reviews_sensor
from imgsim_assets.components.match_matrix.scaffolder import MatchMatrixScaffolder
from imgsim_assets.components.store.component import default_resources
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.settings import Settings


@dg.scaffold_with(MatchMatrixScaffolder)
class MatchMatrixComponent(ComparingComponent):
    """The items of a left catalog that show the same as items of a right catalog."""

    settings_type: ClassVar[type[Settings]] = MatchMatrixSettings

    @property
    def settings(self) -> MatchMatrixSettings:
        """The match table as declared."""
        settings: MatchMatrixSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The match table, downstream of exactly its two catalogs."""
        settings = self.settings
        self.check_catalogs(context, [("left", settings.left), ("right", settings.right)])
        if settings.left == settings.right:
            raise self.error(
                context,
                ["right"],
                f"it is the left catalog too, and every item would match itself; "
                f"{settings.left}/similarity_graph compares a catalog with itself",
            )
        self.check_name(context, "match tables")
        self.check_owners_and_tags(context, settings.owners, settings.tags)
        evaluated = self.catalogs_with_evaluation(context, [settings.left, settings.right])
        self.check_cron(context, "checks.audit_schedule", settings.checks.audit_schedule)
        audits = [matches_audit(settings, self.asset_key)]
        jobs, schedules = audit_job(f"matches__{settings.name}", audits, settings.checks, "UTC")
        root, key = context.project_root, self.asset_key("matches", settings.name)
        table_names = {key: f"matches/{settings.name}"}
        listed = None
        more: list[dg.AssetsDefinition] = []
        sensors: list[dg.SensorDefinition] = []
        if settings.ignore is not None:
            listed = self.asset_key("matches", settings.name, IGNORE_LIST)
            table_names[listed] = f"matches/{settings.name}/{IGNORE_LIST}"
            more = [ignore_list_asset(listed, GROUP, settings.ignore, root)]
            if settings.automation:
                sensors = [ignore_list_sensor(listed, settings.ignore, root)]
        if settings.reviews is not None:
            reviews = self.asset_key("reviews", settings.name)
            table_names[reviews] = f"reviews/{settings.name}"
            more.append(reviews_asset(settings, reviews, GROUP, root))
            if settings.automation:
                sensors.append(reviews_sensor(settings, reviews, root))
        table = matches_asset(
            settings,
            self.project_keys(context),
            evaluated,
            root,
            listed,
            self.encoders(context, [settings.left, settings.right]),
        )
        return dg.Definitions(
            assets=self.translated([table, *more], table_names),
            asset_checks=audits,
            jobs=jobs,
            schedules=schedules,
            sensors=sensors,
            resources=default_resources(context),
        )
