"""The assets of duplicate groups: of one catalogue, and across several."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components.automation import on_new_data, tagged
from imgsim_assets.components.blueprint import Blueprint, code_version
from imgsim_assets.components.catalogue_settings import DuplicateGroupsSettings
from imgsim_assets.components.metadata import jpeg, preview, table_metadata, table_schema
from imgsim_assets.components.pictures import group_sheet
from imgsim_assets.components.project import Project
from imgsim_assets.similarity.grouping import SCHEMA
from imgsim_assets.similarity.groups import (
    ACROSS,
    ACROSS_SCHEMA,
    GroupReport,
    across_table,
    groups_table,
    update_across,
    update_groups,
)
from imgsim_assets.similarity.settings import AcrossSettings, GroupSettings
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

VERSION = "2"
_ONE_EACH = "one_representative_each"
_ONE_EACH_SAYS = "Every group has two items or more and one representative, and no item is in two."


def groups_asset(blueprint: Blueprint, settings: GroupSettings) -> dg.AssetsDefinition:
    """The items of a catalogue that show the same, by group."""
    name = blueprint.name

    @dg.asset(
        **blueprint.basics("duplicate_groups", ["parquet"]),
        deps=[
            blueprint.key("index"),
            _images_of(name),
            *blueprint.advice(settings.threshold),
        ],
        description="Items whose images are similar enough to hang together, by group, with how "
        "alike they are.",
        metadata={"dagster/column_schema": table_schema(SCHEMA)},
        code_version=code_version(VERSION, settings.model_dump()),
        check_specs=[blueprint.check("duplicate_groups", _ONE_EACH, _ONE_EACH_SAYS)],
    )
    def duplicate_groups(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        store = blueprint.project.store(context.run.run_id)
        report = update_groups(store, name, settings)
        return _result(store, groups_table(store, name), report)

    return duplicate_groups


def across_asset(
    settings: DuplicateGroupsSettings, project: Project, reports: Sequence[str]
) -> dg.AssetsDefinition:
    """The items of several catalogues that show the same, by group.

    `reports` are the catalogues whose encoder_report decides the threshold.
    """
    key = dg.AssetKey([ACROSS, settings.name])
    wanted = AcrossSettings(
        threshold=settings.threshold,
        representative=settings.representative,
        close_to_representative=settings.close_to_representative,
    )

    @dg.asset(
        key=key,
        group_name=ACROSS,
        owners=list(settings.owners),
        tags=tagged(settings.tags, automated=settings.automation),
        automation_condition=on_new_data() if settings.automation else None,
        kinds={"parquet"},
        deps=[
            *(dg.AssetKey([name, "index"]) for name in settings.catalogues),
            *(_images_of(name) for name in settings.catalogues),
            *(dg.AssetKey([name, "encoder_report"]) for name in reports),
        ],
        description=settings.description
        or f"Items of {', '.join(settings.catalogues)} whose images are similar enough to hang "
        "together, by group, with how alike they are.",
        metadata={"dagster/column_schema": table_schema(ACROSS_SCHEMA)},
        code_version=code_version(VERSION, settings.catalogues, wanted.model_dump()),
        check_specs=[dg.AssetCheckSpec(_ONE_EACH, asset=key, description=_ONE_EACH_SAYS)],
    )
    def groups_across(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        store = project.store(context.run.run_id)
        report = update_across(store, settings.name, settings.catalogues, wanted)
        return _result(store, across_table(store, settings.name), report)

    return groups_across


def _images_of(name: str) -> dg.AssetDep:
    """All images of a catalogue: their size, or when they were fetched, decides who represents."""
    return dg.AssetDep(dg.AssetKey([name, "images"]), partition_mapping=dg.AllPartitionMapping())


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
        check_name=_ONE_EACH,
        passed=bad == 0 and twice == 0,
        metadata={"groups": groups.height, "bad_groups": bad, "items_in_two_groups": twice},
    )


def _item(rows: pl.DataFrame) -> list[str]:
    """The columns that name an item."""
    return [name for name in ("catalogue", "id") if name in rows.columns]
