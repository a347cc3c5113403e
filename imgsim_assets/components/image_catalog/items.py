"""The asset `items` of a catalog: the validated rows of its source."""

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from imgsim_assets.components.asset_kwargs import STEP_KWARGS, code_version
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.retries import retry_faults
from imgsim_assets.components.store.resource import TABLE_ASSET
from imgsim_assets.pipeline.check_names import IDS_UNIQUE, NO_REJECTS

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.catalog.stage import ItemsReport
    from imgsim_assets.storage.store import Store

VERSION = "1"


class ItemsConfig(dg.Config):
    """Run configuration of `items`."""

    allow_removals: bool = Field(
        False, description="accept the source regardless of how many items it lost"
    )


def items_asset(catalog: CatalogContext) -> dg.AssetsDefinition:
    """The validated rows, split into shards."""
    settings = catalog.settings

    @dg.asset(
        **catalog.asset_kwargs("items", ["polars", "parquet"]),
        **TABLE_ASSET,
        **STEP_KWARGS,
        deps=[catalog.key("source")],
        description=f"{settings.description or ''} The valid rows of the source: id, url, "
        "other_urls where an item may have several images, and every carried column, split into "
        f"{settings.shards} stable shards. Rejected rows and images are in "
        f"`{settings.name}/rejects` with line and reason.",
        code_version=code_version(VERSION, settings.source.model_dump(), settings.shards),
        freshness_policy=catalog.freshness,
        check_specs=[
            catalog.invariant_spec("items", IDS_UNIQUE, "No id occurs twice."),
            catalog.check_spec("items", NO_REJECTS, "Every row and image of the source is valid."),
        ],
    )
    @retry_faults
    def items(context: dg.AssetExecutionContext, config: ItemsConfig) -> dg.MaterializeResult:
        from imgsim_assets.catalog.stage import items_table
        from imgsim_assets.components.checks import asset_check, invariant_results
        from imgsim_assets.pipeline import checks
        from imgsim_assets.pipeline.invariants import items_invariants

        catalog.require_source()
        pipeline = catalog.pipeline(context)
        report = pipeline.ingest(allow_removals=config.allow_removals)
        for notice in report.notices:
            context.log.warning(notice)
        table = items_table(pipeline.store, catalog.name)
        rows = table.read(table.at(report.version))
        rejected = sum(report.rejects.values()) - report.rejected_images
        rejects = checks.no_rejects(catalog.name, rejected, report.rejected_images)
        return dg.MaterializeResult(
            metadata=_describe(pipeline.store, catalog.name, report, rows),
            data_version=dg.DataVersion(report.data_version),
            check_results=[
                *invariant_results(items_invariants(pipeline.store, catalog.name), settings.checks),
                asset_check(NO_REJECTS, rejects, severity="warn"),
            ],
        )

    return items


def _describe(
    store: "Store", name: str, report: "ItemsReport", rows: "pl.DataFrame"
) -> dict[str, Any]:
    from imgsim_assets.catalog.stage import rejects_table
    from imgsim_assets.catalog.validation import OWN_COLUMNS
    from imgsim_assets.components.metadata import counts_table, preview, schema_of, table_metadata

    rejected = sum(report.rejects.values())
    described = {
        **table_metadata(store, f"{name}/items", report, report.rows),
        "dagster/column_schema": schema_of(rows.schema, set(rows.columns) - OWN_COLUMNS),
        "images": report.images,
        "max_images_per_item": report.max_images_per_item,
        "rejected": rejected - report.rejected_images,
        "rejected_images": report.rejected_images,
        "id_column": report.id_column,
        "url_columns": list(report.url_columns),
        "changed_shards": len(report.changed_shards),
        "preview": preview(rows),
    }
    if report.notices:
        described["notices"] = list(report.notices)
    if rejected:
        table = rejects_table(store, name)
        newest = table.latest()
        described["rejects_by_reason"] = counts_table(report.rejects, "reason")
        if newest is not None:
            described["rejects"] = preview(table.read(newest))
    return described
