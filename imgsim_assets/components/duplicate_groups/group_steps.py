"""What a run does for duplicate groups: bring them up, describe, check."""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components.charts import group_sheet
from imgsim_assets.components.image_catalog.checks import ONE_CANONICAL_PER_GROUP
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.metadata import jpeg, preview, table_metadata
from imgsim_assets.components.project import Project
from imgsim_assets.pipeline.settings import DuplicateGroupsSettings
from imgsim_assets.similarity.duplicate_groups import GroupReport, GroupStage
from imgsim_assets.similarity.settings import CrossCatalogGroupSettings, GroupSettings
from imgsim_assets.storage.store import Store


def group_items(
    context: dg.AssetExecutionContext, blueprint: CatalogContext, settings: GroupSettings
) -> dg.MaterializeResult:
    """Bring the groups of one catalog up to its index."""
    store = blueprint.project.store(context.run.run_id)
    return _result(store, GroupStage(store, blueprint.name, settings))


def group_across(
    context: dg.AssetExecutionContext,
    project: Project,
    settings: DuplicateGroupsSettings,
    wanted: CrossCatalogGroupSettings,
) -> dg.MaterializeResult:
    """Bring the groups across catalogs up to their indexes."""
    store = project.store(context.run.run_id)
    return _result(store, GroupStage(store, settings.name, wanted, catalogs=settings.catalogs))


def _result(store: Store, stage: GroupStage) -> dg.MaterializeResult:
    report = stage.run()
    rows = stage.table.read(stage.table.at(report.version))
    return dg.MaterializeResult(
        metadata=_describe(store, stage.table.name, report, rows),
        data_version=dg.DataVersion(report.data_version),
        check_results=[_one_canonical_per_group(rows)],
    )


def _describe(
    store: Store, table_name: str, report: GroupReport, rows: pl.DataFrame
) -> dict[str, Any]:
    described: dict[str, Any] = {
        **table_metadata(store, table_name, report.version, rows.height, changed=report.changed),
        "groups": report.groups,
        "grouped_items": report.grouped,
        "items": report.items,
        "threshold": report.threshold,
        "incremental": report.incremental,
        "seconds": round(report.seconds, 3),
        "encoder_fingerprint": report.fingerprint,
        "preview": preview(rows),
    }
    if rows.height:
        described["contact_sheet"] = jpeg(
            group_sheet(store, rows), "the largest groups, each with its canonical item first"
        )
    return described


def _one_canonical_per_group(rows: pl.DataFrame) -> dg.AssetCheckResult:
    groups = rows.group_by("group_id").agg(
        pl.len().alias("items"), pl.col("is_canonical").sum().alias("canonical")
    )
    bad = groups.filter((pl.col("items") < 2) | (pl.col("canonical") != 1)).height
    twice = rows.height - rows.select(_item(rows)).n_unique()
    return dg.AssetCheckResult(
        check_name=ONE_CANONICAL_PER_GROUP,
        passed=bad == 0 and twice == 0,
        metadata={"groups": groups.height, "bad_groups": bad, "items_in_two_groups": twice},
    )


def _item(rows: pl.DataFrame) -> list[str]:
    """The columns that name an item."""
    return [name for name in ("catalog", "id") if name in rows.columns]
