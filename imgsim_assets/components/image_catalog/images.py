"""The partitioned asset `images` of a catalog: the download, and its ledger."""

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from imgsim_assets.components.asset_kwargs import NETWORK_POOL, AssetSpecKwargs, code_version
from imgsim_assets.components.checks import asset_check
from imgsim_assets.components.columns import IMAGES, table_schema
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.lineage import column_lineage, passthrough_columns
from imgsim_assets.components.refusal import refuse_failed_inputs
from imgsim_assets.components.retries import RETRY_POLICY, retry_faults
from imgsim_assets.components.shard_runs import publish, shards_of_run, waits_in_place
from imgsim_assets.components.store.resource import TABLE_ASSET
from imgsim_assets.pipeline.check_names import SUCCESS_RATE

if TYPE_CHECKING:
    from imgsim_assets.download.scheduling.hosts import HostStats
    from imgsim_assets.download.stage import DownloadReport
    from imgsim_assets.encoders.stream import EmbeddingStream
    from imgsim_assets.pipeline.catalog import CatalogPipeline
    from imgsim_assets.storage.store import Store

VERSION = "2"


class RetryChoice(Enum):
    """Which failures of earlier runs are retried."""

    all = "all"
    retryable = "retryable"
    none = "none"


class ImagesConfig(dg.Config):
    """Run configuration of `images`."""

    retry: RetryChoice = Field(
        RetryChoice.retryable,
        description="failures of earlier runs to retry: all, the retryable ones that are due, or "
        "none",
    )


def images_asset(catalog: CatalogContext) -> dg.AssetsDefinition:
    """The images of a shard, with a ledger row for each."""

    @dg.asset(
        **images_kwargs(catalog),
        **TABLE_ASSET,
        partitions_def=catalog.partitions,
        backfill_policy=catalog.backfill_policy,
        pool=NETWORK_POOL,
        retry_policy=RETRY_POLICY,
        check_specs=[success_rate_spec(catalog)],
    )
    @retry_faults
    def images(context: dg.AssetExecutionContext, config: ImagesConfig) -> dg.MaterializeResult:
        refuse_failed_inputs(context)
        pipeline = catalog.pipeline(context, retry=config.retry.value, wait=waits_in_place(context))
        return dg.MaterializeResult(check_results=[fetch(context, catalog, pipeline)])

    return images


def images_kwargs(catalog: CatalogContext) -> AssetSpecKwargs:
    """The arguments that describe the asset, whichever step materializes it."""
    return {
        **catalog.asset_kwargs("images", ["http", "parquet"]),
        "deps": [catalog.key("items")],
        "description": "One row for every image of an item: where it came from and what it is, or "
        "why there is none. Only new, changed and due images are fetched. The figures of all "
        f"shards together are those of `{catalog.name}/status`.",
        "metadata": {"dagster/column_schema": table_schema(IMAGES)},
        "code_version": code_version(VERSION),
    }


def success_rate_spec(catalog: CatalogContext) -> dg.AssetCheckSpec:
    """Enough images were fetched."""
    checks = catalog.settings.checks
    return catalog.check_spec(
        "images",
        SUCCESS_RATE,
        f"At least {checks.min_success_rate:.0%} of the images were fetched.",
        blocking=checks.severity == "error",
    )


def fetch(
    context: dg.AssetExecutionContext,
    catalog: CatalogContext,
    pipeline: "CatalogPipeline",
    stream: "EmbeddingStream | None" = None,
) -> dg.AssetCheckResult:
    """Fetch the run's shards, publish their reports, and check the success rate."""
    from imgsim_assets.pipeline import checks

    key, limits = catalog.key("images"), catalog.settings.checks
    reports = pipeline.fetch(shards_of_run(context, catalog.settings.shards), stream=stream)
    lineage = column_lineage(passthrough_columns(catalog.key("items"), ["id", "url"]))
    publish(
        context,
        key,
        reports,
        lambda report: _describe(pipeline.store, catalog.name, report) | lineage,
    )
    result = checks.success_rate(pipeline.store, catalog.name, limits.min_success_rate)
    return asset_check(SUCCESS_RATE, result, severity=limits.severity, key=key)


def _describe(store: "Store", name: str, report: "DownloadReport") -> dict[str, Any]:
    from imgsim_assets.components.metadata import counts_table, svg, table_metadata
    from imgsim_assets.download.status import OK
    from imgsim_assets.images.small_chart import small_bar_chart

    by_count = sorted(report.statuses.items(), key=lambda pair: -pair[1])
    described: dict[str, Any] = {
        **table_metadata(store, f"{name}/images", report, report.images),
        "items": report.items,
        "usable_items": report.usable_items,
        "images": report.images,
        "ok": report.statuses.get(OK, 0),
        "failed": report.failed,
        "statuses": counts_table(report.statuses, "status"),
        "status_chart": svg(small_bar_chart(by_count), "images by status"),
        "requested": report.requested,
        "fetched": report.fetched,
        "unchanged": report.unchanged,
        "removed_items": report.removed_items,
        "removed_images": report.removed_images,
        "bytes_fetched": report.bytes,
        "seconds": round(report.seconds, 3),
        "images_per_second": round(report.fetched / max(report.seconds, 1e-6), 1),
    }
    if report.revalidation_errors:
        described["revalidation_errors"] = counts_table(report.revalidation_errors, "status")
    if report.hosts:
        described["host_stats"] = _host_table(report.hosts)
        described["hosts_skipped"] = list(report.hosts_skipped)
    return described


def _host_table(hosts: "Sequence[HostStats]") -> dg.MetadataValue:
    """The hosts that failed most and took longest, over the shards of the run so far."""
    records = [
        dg.TableRecord(
            {
                "host": host.host or "(no host)",
                "images": host.images,
                "failed": host.failed,
                "failures": ", ".join(f"{kind} {n}" for kind, n in host.failures.most_common(3)),
                "seconds_per_request": round(host.mean_seconds, 3),
            }
        )
        for host in hosts
    ]
    columns = {
        "host": "string",
        "images": "int",
        "failed": "int",
        "failures": "string",
        "seconds_per_request": "float",
    }
    return dg.MetadataValue.table(
        records, schema=dg.TableSchema([dg.TableColumn(*pair) for pair in columns.items()])
    )
