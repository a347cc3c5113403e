"""The asset `duplicate_groups` of a catalogue that declares `groups`."""

from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.components.blueprint import Blueprint, code_version
from imgsim_assets.components.metadata import jpeg, preview, table_metadata, table_schema
from imgsim_assets.components.pictures import group_sheet
from imgsim_assets.similarity.groups import SCHEMA, GroupReport, groups_table, update_groups
from imgsim_assets.similarity.settings import GroupSettings
from imgsim_assets.storage.store import Store

VERSION = "1"


def groups_asset(blueprint: Blueprint, settings: GroupSettings) -> dg.AssetsDefinition:
    """The items of a catalogue that show the same, by group."""
    name = blueprint.name

    @dg.asset(
        **blueprint.basics("duplicate_groups", ["parquet"]),
        deps=[blueprint.key("index"), *blueprint.advice(settings.threshold)],
        description="Items whose images are similar enough to hang together, by group, with how "
        "alike they are.",
        metadata={"dagster/column_schema": table_schema(SCHEMA)},
        code_version=code_version(VERSION, settings.model_dump()),
        check_specs=[
            blueprint.check(
                "duplicate_groups",
                "one_representative_each",
                "Every group has two items or more and one representative, and no item is in two.",
            )
        ],
    )
    def duplicate_groups(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        store = blueprint.project.store(context.run.run_id)
        report = update_groups(store, name, settings)
        table = groups_table(store, name)
        rows = table.read(table.at(report.version))
        return dg.MaterializeResult(
            metadata=_describe(store, name, report, rows),
            data_version=dg.DataVersion(report.data_version),
            check_results=[_one_representative_each(rows)],
        )

    return duplicate_groups


def _describe(store: Store, name: str, report: GroupReport, rows: pl.DataFrame) -> dict[str, Any]:
    table_name = f"{name}/duplicate_groups"
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
    twice = rows.height - rows["id"].n_unique()
    return dg.AssetCheckResult(
        check_name="one_representative_each",
        passed=bad == 0 and twice == 0,
        metadata={"groups": groups.height, "bad_groups": bad, "items_in_two_groups": twice},
    )
