"""The component `imgsim_assets.RetentionComponent`: what a store may forget, and when."""

from dataclasses import asdict
from typing import ClassVar

import dagster as dg
from pydantic import Field

from imgsim_assets.components.base import YamlComponent
from imgsim_assets.components.project import Project
from imgsim_assets.settings import Settings
from imgsim_assets.storage.settings import RetentionPolicy

JOB = "collect_garbage"


class RetentionSettings(RetentionPolicy):
    """The rules, and when they are applied."""

    schedule: str | None = Field("30 4 * * 0", description="cron expression; null for never")
    timezone: str = Field("UTC", description="of the schedule")


class RetentionComponent(YamlComponent):
    """Deletes old versions, and images and vectors that no catalog has any more."""

    settings_type: ClassVar[type[Settings]] = RetentionSettings

    @property
    def settings(self) -> RetentionSettings:
        """The rules as declared."""
        settings: RetentionSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The job that collects, and its schedule."""
        declared = len(self.all_like_it(context))
        if declared > 1:
            raise self.error(
                context,
                [],
                f"{declared} components are a RetentionComponent, and a store has one set of rules; "
                "keep one of them",
            )
        self.check_cron(context, "schedule", self.settings.schedule)
        self.check_timezone(context, self.settings.timezone)
        project = Project(context.project_root)
        rules = RetentionPolicy(
            retain_last=self.settings.retain_last, min_age_hours=self.settings.min_age_hours
        )

        @dg.op(description="Delete what the rules do not keep.")
        def delete_what_is_not_kept(context: dg.OpExecutionContext) -> None:
            from imgsim_assets.storage.gc import collect_garbage

            collected = collect_garbage(project.store(context.run.run_id), rules)
            context.log.info(f"collected: {asdict(collected)}")
            context.add_output_metadata(asdict(collected))

        @dg.job(
            name=JOB,
            description=f"Keeps the newest {rules.retain_last} versions of every table, and "
            f"everything younger than {rules.min_age_hours:g} hours.",
        )
        def job() -> None:
            delete_what_is_not_kept()

        return dg.Definitions(jobs=[job], schedules=self._schedules(job))

    def _schedules(self, job: dg.JobDefinition) -> list[dg.ScheduleDefinition]:
        if self.settings.schedule is None:
            return []
        return [
            dg.ScheduleDefinition(
                name=f"{JOB}_schedule",
                job=job,
                cron_schedule=self.settings.schedule,
                execution_timezone=self.settings.timezone,
                default_status=dg.DefaultScheduleStatus.RUNNING,
                description="Deletes old versions, and what no version names any more.",
            )
        ]
