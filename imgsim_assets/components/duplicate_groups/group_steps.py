"""What a run does for duplicate groups: bring them up, describe, check."""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components.charts import group_sheet
from imgsim_assets.components.image_catalog.checks import ONE_REPRESENTATIVE_EACH
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.metadata import jpeg, preview, table_metadata
from imgsim_assets.components.project import Project
from imgsim_assets.pipeline.settings import DuplicateGroupsSettings
from imgsim_assets.similarity.duplicate_groups import (
    GroupReport,
    across_table,
    groups_table,
    update_across,
    update_groups,
)
from imgsim_assets.similarity.settings import AcrossSettings, GroupSettings
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table


def group_items(
    context: dg.AssetExecutionContext, blueprint: CatalogContext, settings: GroupSettings
) -> dg.MaterializeResult:
    """Bring the groups of one catalog up to its index."""
    store = blueprint.project.store(context.run.run_id)
    report = update_groups(store, blueprint.name, settings)
    return _result(store, groups_table(store, blueprint.name), report)


def group_across(
    context: dg.AssetExecutionContext,
    project: Project,
    settings: DuplicateGroupsSettings,
    wanted: AcrossSettings,
) -> dg.MaterializeResult:
    """Bring the groups across catalogs up to their indexes."""
    store = project.store(context.run.run_id)
    report = update_across(store, settings.name, settings.catalogs, wanted)
    return _result(store, across_table(store, settings.name), report)


def _result(store: Store, table: Table, report: GroupReport) -> dg.MaterializeResult:
    rows = table.read(table.at(report.version))
    return dg.MaterializeResult(
        metadata=_describe(store, table.name, report, rows),
        data_version=dg.DataVersion(report.data_version),
        check_results=[_one_representative_each(rows)],
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
            group_sheet(store, rows), "the largest groups, each behind its representative"
        )
    return described


def _one_representative_each(rows: pl.DataFrame) -> dg.AssetCheckResult:
    groups = rows.group_by("group_id").agg(
        pl.len().alias("items"), pl.col("is_representative").sum().alias("representatives")
    )
    bad = groups.filter((pl.col("items") < 2) | (pl.col("representatives") != 1)).height
    twice = rows.height - rows.select(_item(rows)).n_unique()
    return dg.AssetCheckResult(
        check_name=ONE_REPRESENTATIVE_EACH,
        passed=bad == 0 and twice == 0,
        metadata={"groups": groups.height, "bad_groups": bad, "items_in_two_groups": twice},
    )


def _item(rows: pl.DataFrame) -> list[str]:
    """The columns that name an item."""
    return [name for name in ("catalog", "id") if name in rows.columns]
