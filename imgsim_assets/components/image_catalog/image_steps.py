"""What a run does for `images`: fetch shards, describe them, check how many succeeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components.image_catalog.checks import SUCCESS_RATE
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.lineage import carried, column_lineage
from imgsim_assets.components.metadata import counted, svg, table_metadata
from imgsim_assets.components.shard_runs import ShardRun, publish, run_shards
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.scheduling.host_stats import HostStats
from imgsim_assets.download.settings import Retry
from imgsim_assets.download.stage import DownloadReport, ImagesStage
from imgsim_assets.download.status import OK
from imgsim_assets.images.plot import bar_chart
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.store import Store


def fetch_shards(
    context: dg.AssetExecutionContext, blueprint: CatalogContext, retry: Retry
) -> dg.MaterializeResult:
    """Fetch what the run's shards lack, and check how much of the catalog has an image."""
    store = blueprint.project.store(context.run.run_id)
    with images_stage(context, blueprint, store, retry) as stage:
        outcome = run_shards(context, blueprint.settings.shards, stage.run)
    publish_images(context, blueprint, store, outcome)
    check = success_rate(store, blueprint.settings)
    return dg.MaterializeResult(check_results=[check])


def publish_images(
    context: dg.AssetExecutionContext,
    blueprint: CatalogContext,
    store: Store,
    outcome: ShardRun[DownloadReport],
) -> None:
    """Attach what came of each shard to its materialization; raises where a shard failed."""
    origins = column_lineage(carried(blueprint.key("items"), ["id", "url"]))
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
        "failed": report.failed,
        "statuses": counted(report.statuses, "status"),
        "status_chart": svg(
            bar_chart(sorted(report.statuses.items(), key=lambda pair: -pair[1]), title="items"),
            "items by status",
        ),
        "requested": report.requested,
        "fetched": report.fetched,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "bytes_fetched": report.bytes,
        "seconds": round(report.seconds, 3),
        "images_per_second": round(report.fetched / max(report.seconds, 1e-6), 1),
    }
    if report.revalidation_errors:
        described["revalidation_errors"] = counted(report.revalidation_errors, "status")
    if report.hosts:
        described["host_stats"] = _host_table(report.hosts)
        described["hosts_skipped"] = list(report.hosts_skipped)
    return described


def _host_table(hosts: Sequence[HostStats]) -> dg.MetadataValue:
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


def success_rate(store: Store, settings: CatalogSettings) -> dg.AssetCheckResult:
    """The share of items with an image, as the check of that name; no items pass it."""
    floor, severity = settings.checks.min_success_rate, settings.checks.severity
    table = ledger_table(store, settings.name)
    commit = table.latest()
    rows = table.read(commit, columns=["status"]) if commit is not None else pl.DataFrame()
    ok = rows.filter(pl.col("status") == OK).height if rows.height else 0
    # A catalog that was emptied lacks no image, and what hangs on it has to be emptied too.
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


def images_stage(
    context: dg.AssetExecutionContext,
    blueprint: CatalogContext,
    store: Store,
    retry: Retry,
    *,
    on_commit: Callable[[Shard], None] | None = None,
) -> ImagesStage:
    """The images stage of a catalog, as a run asks for it."""
    return ImagesStage(
        store,
        blueprint.name,
        blueprint.settings.download,
        retry=retry,
        log=context.log.info,
        on_commit=on_commit,
    )
