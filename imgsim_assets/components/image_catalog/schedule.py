"""Refreshing a whole catalog: one job over all its shards, and the schedule that runs it."""

from __future__ import annotations

from typing import Any

import dagster as dg

from imgsim_assets.components.image_catalog.context import CatalogContext

REFRESH = "_refresh"
_STAGES = ("items", "images", "embeddings", "index", "similarity_graph")
_FIRST_PARTITION = "dagster/asset_partition_range_start"
_LAST_PARTITION = "dagster/asset_partition_range_end"


def whole_catalog_tags(partitions: dg.PartitionsDefinition[str] | None) -> dict[str, str]:
    """The run tags that make one run take every shard."""
    names = partitions.get_partition_keys() if partitions is not None else []
    return {_FIRST_PARTITION: names[0], _LAST_PARTITION: names[-1]} if names else {}


def refresh_job(blueprint: CatalogContext) -> Any:
    """The job `<name>_refresh`: everything but the source, which is only ever observed."""
    reported = ("encoder_evaluation",) if blueprint.settings.report is not None else ()
    grouped = ("duplicate_groups",) if blueprint.settings.groups is not None else ()
    stages = (*_STAGES, *reported, *grouped)
    return dg.define_asset_job(
        f"{blueprint.name}{REFRESH}",
        selection=dg.AssetSelection.assets(*(blueprint.key(stage) for stage in stages)),
        description=f"Bring {blueprint.name} up to its source, all shards in one run. What has "
        "not changed is not done again.",
        partitions_def=blueprint.partitions,
    )


def refresh_schedule(blueprint: CatalogContext, job: Any) -> list[dg.ScheduleDefinition]:
    """The schedule of the refresh job, if the catalog declares one."""
    cron = blueprint.settings.schedule
    if cron is None:
        return []

    def request(_: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(tags=whole_catalog_tags(blueprint.partitions))

    return [
        dg.ScheduleDefinition(
            name=f"{blueprint.name}{REFRESH}_schedule",
            job=job,
            cron_schedule=cron,
            execution_timezone=blueprint.settings.timezone,
            execution_fn=request,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=f"Refreshes {blueprint.name}.",
        )
    ]
