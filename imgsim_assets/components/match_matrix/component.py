"""The component `imgsim_assets.MatchMatrixComponent`: the match table of two catalogs."""

from __future__ import annotations

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.audits import audit_job
from imgsim_assets.components.declared_catalogs import ComparingComponent
from imgsim_assets.components.exact_time import warn_of_exact_time
from imgsim_assets.components.match_matrix.matches import GROUP, matches_asset, matches_audit
from imgsim_assets.components.match_matrix.scaffolder import MatchMatrixScaffolder
from imgsim_assets.components.reviews import DeclaredReviews
from imgsim_assets.components.store.component import default_resources
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.settings import Settings
from imgsim_assets.similarity.settings import METHOD


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
        settings, catalogs = self.settings, (self.settings.left, self.settings.right)
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
        self.check_compute(context)
        evaluated = self.catalogs_with_evaluation(context, catalogs)
        self.check_cron(context, "checks.audit_schedule", settings.checks.audit_schedule)
        audits = [matches_audit(settings, self.asset_key)]
        jobs, schedules = audit_job(f"matches__{settings.name}", audits, settings.checks, "UTC")
        root, path = context.project_root, (GROUP, settings.name)
        reviews = (
            DeclaredReviews(settings.name, catalogs, settings.reviews, root)
            if settings.reviews is not None
            else None
        )
        inputs, table_names = self.observed_inputs(context, path, reviews)
        key = self.asset_key(*path)
        table_names[key] = "/".join(path)
        place = self.location(context, [METHOD])
        warn_of_exact_time(context, place, key, settings, [settings.left], [settings.right])
        table = matches_asset(
            settings,
            self.project_keys(context),
            evaluated,
            root,
            [each.spec.key for each in inputs],
            self.encoders(context, catalogs),
            reviews,
        )
        return dg.Definitions(
            assets=self.translated([table, *(each.asset() for each in inputs)], table_names),
            asset_checks=audits,
            jobs=jobs,
            schedules=schedules,
            sensors=[each.sensor() for each in inputs if settings.automation],
            resources=default_resources(context),
        )
