"""The partitioned asset `images` of a catalogue."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from imgsim_assets.components.blueprint import NETWORK_POOL, AssetFacts, Blueprint, code_version
from imgsim_assets.components.catalogue_settings import CatalogueSettings
from imgsim_assets.components.lineage import carried, column_lineage
from imgsim_assets.components.metadata import counted, svg, table_metadata, table_schema
from imgsim_assets.components.shard_runs import ShardRun, publish, run_shards
from imgsim_assets.download import ledger
from imgsim_assets.download.stage import DownloadReport, ImagesStage
from imgsim_assets.download.status import OK
from imgsim_assets.download.tally import HostTally
from imgsim_assets.images.plot import bars
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store

IMAGES_VERSION = "2"
SUCCESS_RATE = "success_rate"


class RetryChoice(Enum):
    """Which failures of earlier runs are tried again."""

    all = "all"
    transient = "transient"
    none = "none"


class ImagesConfig(dg.Config):
    """What a person may ask of one run."""

    retry: RetryChoice = Field(
        RetryChoice.transient,
        description="failures of earlier runs to try again: all, the transient ones that are "
        "due, or none",
    )


def images_asset(blueprint: Blueprint) -> dg.AssetsDefinition:
    """The download of a shard's images, with the ledger of what came of each item."""

    @dg.asset(
        **images_facts(blueprint),
        partitions_def=blueprint.partitions,
        backfill_policy=blueprint.backfill_policy,
        pool=NETWORK_POOL,
        check_specs=[success_rate_spec(blueprint)],
    )
    def images(context: dg.AssetExecutionContext, config: ImagesConfig) -> dg.MaterializeResult:
        store = blueprint.project.store(context.run.run_id)
        with images_stage(context, blueprint, store, config) as stage:
            outcome = run_shards(context, blueprint.settings.shards, stage.run)
        publish_images(context, blueprint, store, outcome)
        check = success_rate(store, blueprint.settings)
        return dg.MaterializeResult(check_results=[check])

    return images


def images_facts(blueprint: Blueprint) -> AssetFacts:
    """What the asset is, whichever step materializes it."""
    return {
        **blueprint.basics("images", ["http", "parquet"]),
        "deps": [blueprint.key("catalogue")],
        "description": "One row for every item: where its image came from, what it is, or why "
        "there is none. Fetched is only what is new, changed, or due for another try.",
        "metadata": {"dagster/column_schema": table_schema(ledger.SCHEMA)},
        "code_version": code_version(IMAGES_VERSION),
    }


def success_rate_spec(blueprint: Blueprint) -> dg.AssetCheckSpec:
    """The check that enough items have an image."""
    checks = blueprint.settings.checks
    return blueprint.check(
        "images",
        SUCCESS_RATE,
        f"At least {checks.min_success_rate:.0%} of the items have an image.",
        blocking=checks.severity == "error",
    )


def images_stage(
    context: dg.AssetExecutionContext,
    blueprint: Blueprint,
    store: Store,
    config: ImagesConfig,
    *,
    on_commit: Callable[[Shard], None] | None = None,
) -> ImagesStage:
    """The images stage of a catalogue, as a run asks for it."""
    return ImagesStage(
        store,
        blueprint.name,
        blueprint.settings.download,
        retry=config.retry.value,
        log=context.log.info,
        on_commit=on_commit,
    )


def publish_images(
    context: dg.AssetExecutionContext,
    blueprint: Blueprint,
    store: Store,
    outcome: ShardRun[DownloadReport],
) -> None:
    """Attach what came of each shard to its materialization; raises where a shard failed."""
    origins = column_lineage(carried(blueprint.key("catalogue"), ["id", "url"]))
    publish(
        context,
        blueprint.key("images"),
        outcome,
        lambda report: _describe_images(store, blueprint.name, report) | origins,
    )


def _describe_images(store: Store, name: str, report: DownloadReport) -> dict[str, Any]:
    described: dict[str, Any] = {
        **table_metadata(
            store, f"{name}/images", report.version, report.items, changed=report.changed
        ),
        "ok": report.statuses.get(OK, 0),
        "failed": report.items - report.statuses.get(OK, 0),
        "statuses": counted(report.statuses, "status"),
        "status_chart": svg(
            bars(sorted(report.statuses.items(), key=lambda pair: -pair[1]), title="items"),
            "items by status",
        ),
        "fetched": report.fetched,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "bytes_fetched": report.bytes,
        "seconds": round(report.seconds, 3),
        "images_per_second": round(report.fetched / max(report.seconds, 1e-6), 1),
    }
    if report.refresh_failures:
        described["refresh_failures"] = counted(report.refresh_failures, "status")
    if report.hosts:
        described["hosts_in_run_so_far"] = _host_table(report.hosts)
        described["hosts_given_up"] = list(report.hosts_given_up)
    return described


def _host_table(hosts: Sequence[HostTally]) -> dg.MetadataValue:
    """The hosts that failed most and took longest, over the shards of the run so far."""
    records = [
        dg.TableRecord(
            {
                "host": tally.host or "(no host)",
                "items": tally.items,
                "failed": tally.failed,
                "failures": ", ".join(f"{kind} {n}" for kind, n in tally.failures.most_common(3)),
                "seconds_per_request": round(tally.mean_seconds, 3),
            }
        )
        for tally in hosts
    ]
    columns = {
        "host": "string",
        "items": "int",
        "failed": "int",
        "failures": "string",
        "seconds_per_request": "float",
    }
    return dg.MetadataValue.table(
        records, schema=dg.TableSchema([dg.TableColumn(*pair) for pair in columns.items()])
    )


def success_rate(store: Store, settings: CatalogueSettings) -> dg.AssetCheckResult:
    """The share of items with an image, as the check of that name; no items pass it."""
    floor, severity = settings.checks.min_success_rate, settings.checks.severity
    table = ledger.ledger_table(store, settings.name)
    commit = table.latest()
    rows = table.read(commit, columns=["status"]) if commit is not None else pl.DataFrame()
    ok = rows.filter(pl.col("status") == OK).height if rows.height else 0
    # A catalogue that was emptied lacks no image, and what hangs on it has to be emptied too.
    rate = ok / rows.height if rows.height else 1.0
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey([settings.name, "images"]),
        check_name=SUCCESS_RATE,
        passed=rate >= floor,
        severity=dg.AssetCheckSeverity[severity.upper()],
        metadata={
            "success_rate": round(rate, 4),
            "floor": floor,
            "ok": ok,
            "items": rows.height,
        },
    )
