"""The component `imgsim_assets.RetentionComponent`: what a store keeps, and for how long."""

from typing import ClassVar

import dagster as dg

from imgsim_assets.components.base import YamlComponent
from imgsim_assets.components.retention.scaffolder import RetentionScaffolder
from imgsim_assets.components.retries import retry_faults
from imgsim_assets.components.store.component import default_resources
from imgsim_assets.components.store.resource import STORE, open_store
from imgsim_assets.pipeline.settings import RetentionSettings
from imgsim_assets.settings import Settings
from imgsim_assets.storage.settings import RetentionPolicy

JOB = "collect_garbage"


@dg.scaffold_with(RetentionScaffolder)
class RetentionComponent(YamlComponent):
    """Deletes old versions of tables, and images and vectors that no version refers to."""

    settings_type: ClassVar[type[Settings]] = RetentionSettings

    @property
    def settings(self) -> RetentionSettings:
        """The policy as declared."""
        settings: RetentionSettings = self.declared
        return settings

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The job that deletes, and its schedule."""
        self.check_alone(context, "a RetentionComponent, and a store has one policy")
        settings = self.settings
        self.check_cron(context, "schedule", settings.schedule)
        self.check_timezone(context, settings.timezone)
        policy = RetentionPolicy(
            retain_last=settings.retain_last, min_age_hours=settings.min_age_hours
        )

        @dg.op(description="Delete what the policy does not keep.", required_resource_keys={STORE})
        @retry_faults
        def delete_expired(context: dg.OpExecutionContext) -> None:
            from dataclasses import asdict

            from imgsim_assets.storage.gc import collect_garbage

            report = asdict(collect_garbage(open_store(context), policy))
            for message in report["damaged"]:
                context.log.warning(message)
            context.log.info(f"deleted: {report}")
            context.add_output_metadata(report)

        @dg.job(
            name=JOB,
            description=f"Keeps the newest {policy.retain_last} versions of every table, and "
            f"everything younger than {policy.min_age_hours:g} hours.",
        )
        def job() -> None:
            delete_expired()

        return dg.Definitions(
            jobs=[job], schedules=self._schedules(job), resources=default_resources(context)
        )

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
                description="Deletes old versions, and what no version refers to.",
            )
        ]
