"""The partitioned asset `images` of a catalogue."""

from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components.blueprint import NETWORK_POOL, Blueprint, code_version
from imgsim_assets.components.catalogue_settings import CheckSettings
from imgsim_assets.components.metadata import counted, svg, table_metadata, table_schema
from imgsim_assets.components.shard_runs import publish, run_shards
from imgsim_assets.download import ledger
from imgsim_assets.download.stage import DownloadReport, ImagesStage
from imgsim_assets.download.status import OK
from imgsim_assets.images.plot import bars
from imgsim_assets.storage.store import Store

IMAGES_VERSION = "1"


def images_asset(blueprint: Blueprint) -> dg.AssetsDefinition:
    """The download of a shard's images, with the ledger of what came of each item."""
    settings = blueprint.settings

    @dg.asset(
        **blueprint.basics("images", ["http", "parquet"]),
        deps=[blueprint.key("catalogue")],
        partitions_def=blueprint.partitions,
        backfill_policy=blueprint.backfill_policy,
        pool=NETWORK_POOL,
        description="One row for every item: where its image came from, what it is, or why there "
        "is none. Fetched is only what is new, changed, or due for another try.",
        metadata={"dagster/column_schema": table_schema(ledger.SCHEMA)},
        code_version=code_version(IMAGES_VERSION),
        check_specs=[
            blueprint.check(
                "images",
                "success_rate",
                f"At least {settings.checks.min_success_rate:.0%} of the items have an image.",
                blocking=settings.checks.severity == "error",
            )
        ],
    )
    def images(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        store = blueprint.project.store(context.run.run_id)
        stage = ImagesStage(store, settings.name, settings.download, log=context.log.info)
        with stage:
            outcome = run_shards(context, settings.shards, stage.run)
        publish(context, outcome, lambda report: _describe_images(store, settings.name, report))
        check = _success_rate(store, settings.name, settings.checks)
        return dg.MaterializeResult(check_results=[check])

    return images


def _describe_images(store: Store, name: str, report: DownloadReport) -> dict[str, Any]:
    return {
        **table_metadata(
            store, f"{name}/images", report.version, report.items, changed=report.changed
        ),
        "fetched": report.fetched,
        "removed": report.removed,
        "ok": report.statuses.get(OK, 0),
        "failed": report.items - report.statuses.get(OK, 0),
        "bytes_fetched": report.bytes,
        "seconds": round(report.seconds, 3),
        "images_per_second": round(report.fetched / max(report.seconds, 1e-6), 1),
        "statuses": counted(report.statuses, "status"),
        "status_chart": svg(
            bars(sorted(report.statuses.items(), key=lambda pair: -pair[1]), title="items"),
            "items by status",
        ),
    }


def _success_rate(store: Store, name: str, settings: CheckSettings) -> dg.AssetCheckResult:
    table = ledger.ledger_table(store, name)
    commit = table.latest()
    rows = table.read(commit, columns=["status"]) if commit is not None else pl.DataFrame()
    ok = rows.filter(pl.col("status") == OK).height if rows.height else 0
    rate = ok / rows.height if rows.height else 0.0
    return dg.AssetCheckResult(
        check_name="success_rate",
        passed=rate >= settings.min_success_rate,
        severity=dg.AssetCheckSeverity[settings.severity.upper()],
        metadata={
            "success_rate": round(rate, 4),
            "floor": settings.min_success_rate,
            "ok": ok,
            "items": rows.height,
        },
    )
