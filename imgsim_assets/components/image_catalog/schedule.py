"""The refresh of a whole catalog: one job over all its shards, and its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.pipeline.settings import CatalogSettings

REFRESH = "_refresh"
CATALOG_TAG = "imgsim/catalog"
_ASSETS = ("items", "images", "embeddings", "status", "index", "similarity_graph")
_FIRST_PARTITION = "dagster/asset_partition_range_start"
_LAST_PARTITION = "dagster/asset_partition_range_end"
# About 100,000 items, at the recommended size of a shard.
_MAX_SMALL_SHARDS = 4
_UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


def refresh_job(catalog: CatalogContext, audits: Sequence[dg.AssetChecksDefinition]) -> Any:
    """The job `<name>_refresh`: every asset except the source, which is only observed.

    Its runs have the range of all shards, unless whoever launches one names a partition.
    It leaves out the audits, which have a job of their own.
    """
    optional = {
        "encoder_evaluation": catalog.settings.evaluation,
        "duplicate_groups": catalog.settings.groups,
    }
    assets = [*_ASSETS, *(asset for asset, settings in optional.items() if settings is not None)]
    shards = catalog.partitions.get_partition_keys()
    return dg.define_asset_job(
        f"{catalog.name}{REFRESH}",
        selection=dg.AssetSelection.assets(*(catalog.key(asset) for asset in assets))
        - dg.AssetSelection.checks(*audits),
        description=f"Update {catalog.name} from its source, all shards in one run. Unchanged "
        "data is not processed again.",
        executor_def=_executor(catalog.settings),
        run_tags={
            CATALOG_TAG: catalog.name,
            _FIRST_PARTITION: shards[0],
            _LAST_PARTITION: shards[-1],
        },
    )


def _executor(settings: CatalogSettings) -> dg.ExecutorDefinition | None:
    """The executor of the refresh; None is the project's.

    The steps of a small catalog take less time than the start of a process for each of them.
    """
    is_small = settings.shards <= _MAX_SMALL_SHARDS
    if settings.executor == "in_process" or (settings.executor == "auto" and is_small):
        return dg.in_process_executor
    return None


def refresh_schedule(catalog: CatalogContext, job: Any) -> list[dg.ScheduleDefinition]:
    """The schedule of the refresh job, if the catalog declares one."""
    cron = catalog.settings.schedule
    if cron is None:
        return []

    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        unfinished = dg.RunsFilter(job_name=job.name, statuses=_UNFINISHED)
        for record in context.instance.get_run_records(unfinished, limit=1):
            run = record.dagster_run
            return dg.SkipReason(f"run {run.run_id} of {job.name} is {run.status.value.lower()}")
        return dg.RunRequest()

    return [
        dg.ScheduleDefinition(
            name=f"{catalog.name}{REFRESH}_schedule",
            job=job,
            cron_schedule=cron,
            execution_timezone=catalog.settings.timezone,
            execution_fn=request,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=f"Refreshes {catalog.name}, unless its last refresh is still running.",
        )
    ]
