"""The refresh of a whole catalog: one job over all its shards, and its schedule."""

from __future__ import annotations

from typing import Any

import dagster as dg

from imgsim_assets.components.image_catalog.context import CatalogContext

REFRESH = "_refresh"
_ASSETS = ("items", "images", "embeddings", "index", "similarity_graph")
_FIRST_PARTITION = "dagster/asset_partition_range_start"
_LAST_PARTITION = "dagster/asset_partition_range_end"


def whole_catalog_tags(partitions: dg.PartitionsDefinition[str] | None) -> dict[str, str]:
    """The run tags that make one run take every shard."""
    names = partitions.get_partition_keys() if partitions is not None else []
    return {_FIRST_PARTITION: names[0], _LAST_PARTITION: names[-1]} if names else {}


def refresh_job(catalog: CatalogContext) -> Any:
    """The job `<name>_refresh`: every asset except the source, which is only observed."""
    optional = {
        "encoder_evaluation": catalog.settings.evaluation,
        "duplicate_groups": catalog.settings.groups,
    }
    assets = [*_ASSETS, *(asset for asset, settings in optional.items() if settings is not None)]
    return dg.define_asset_job(
        f"{catalog.name}{REFRESH}",
        selection=dg.AssetSelection.assets(*(catalog.key(asset) for asset in assets)),
        description=f"Update {catalog.name} from its source, all shards in one run. Unchanged "
        "data is not processed again.",
        partitions_def=catalog.partitions,
    )


def refresh_schedule(catalog: CatalogContext, job: Any) -> list[dg.ScheduleDefinition]:
    """The schedule of the refresh job, if the catalog declares one."""
    cron = catalog.settings.schedule
    if cron is None:
        return []

    def request(_: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(tags=whole_catalog_tags(catalog.partitions))

    return [
        dg.ScheduleDefinition(
            name=f"{catalog.name}{REFRESH}_schedule",
            job=job,
            cron_schedule=cron,
            execution_timezone=catalog.settings.timezone,
            execution_fn=request,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=f"Refreshes {catalog.name}.",
        )
    ]
