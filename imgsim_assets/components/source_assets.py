"""The assets `source` (observed) and `catalogue` (validated rows) of a catalogue."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from imgsim_assets.catalogue.ingest import (
    CatalogueReport,
    catalogue_table,
    ingest,
    rejects_table,
)
from imgsim_assets.catalogue.source import open_source
from imgsim_assets.components.blueprint import Blueprint, code_version
from imgsim_assets.components.metadata import counted, preview, table_metadata, table_schema
from imgsim_assets.storage.store import Store

VERSION = "1"
_HASHES = "hashes"


def source_asset(blueprint: Blueprint) -> dg.AssetsDefinition:
    """The source as an external asset, observed by the hash of its content."""
    settings = blueprint.settings.source
    spec = dg.AssetSpec(
        **blueprint.basics("source", ["file"]) | {"automation_condition": _watch(blueprint)},
        description=f"`{settings.path}`, as it is delivered. Observed by content hash, never "
        "materialized.",
        metadata={"path": settings.path},
    )

    def observe(context: dg.AssetExecutionContext) -> dg.ObserveResult:
        blueprint.check_source()
        source = open_source(settings, blueprint.project.root)
        found = source.fingerprint(_known_hashes(context, spec.key))
        return dg.ObserveResult(
            asset_key=spec.key,
            data_version=dg.DataVersion(found.digest),
            metadata={
                "files": len(source.files),
                "bytes": sum(file.size for file in source.files),
                _HASHES: dg.MetadataValue.json(dict(found.hashes)),
            },
        )

    observable = dg.multi_observable_source_asset(specs=[spec], name=f"{blueprint.name}__source")
    asset: dg.AssetsDefinition = observable(observe)
    return asset


def _watch(blueprint: Blueprint) -> dg.AutomationCondition | None:
    settings = blueprint.settings
    if settings.watch is None or not settings.automation:
        return None
    return dg.AutomationCondition.on_cron(settings.watch, settings.timezone)


def _known_hashes(context: dg.AssetExecutionContext, key: dg.AssetKey) -> Mapping[str, str] | None:
    """The file hashes of the last observation, so that untouched files are not read again."""
    record = context.instance.fetch_observations(key, limit=1).records
    if not record or record[0].asset_observation is None:
        return None
    found = record[0].asset_observation.metadata.get(_HASHES)
    return found.value if isinstance(found, dg.JsonMetadataValue) else None  # type: ignore[return-value]


class CatalogueRun(dg.Config):
    """What a person may say about one run of a catalogue."""

    accept_drop: bool = Field(
        False, description="take the source as it is, however many items it has lost"
    )


def catalogue_asset(blueprint: Blueprint) -> dg.AssetsDefinition:
    """The validated rows, split into shards."""
    settings = blueprint.settings

    @dg.asset(
        **blueprint.basics("catalogue", ["polars", "parquet"]),
        deps=[blueprint.key("source")],
        description=f"{settings.description or ''} The source's rows that can be used: id, url "
        "and every carried column, split "
        f"into {settings.shards} stable shards. Rows that cannot be used are listed in "
        f"`{settings.name}/rejects` with line and reason.",
        code_version=code_version(VERSION, settings.source.model_dump(), settings.shards),
        freshness_policy=blueprint.freshness,
        check_specs=[
            blueprint.check("catalogue", "ids_unique", "No id stands twice."),
            blueprint.check("catalogue", "no_rejects", "Every row of the source can be used."),
        ],
    )
    def catalogue(context: dg.AssetExecutionContext, config: CatalogueRun) -> dg.MaterializeResult:
        blueprint.check_source()
        store = blueprint.project.store(context.run.run_id)
        report = ingest(
            store,
            settings.name,
            settings.source,
            settings.shards,
            blueprint.project.root,
            max_drop=1.0 if config.accept_drop else settings.checks.max_drop,
        )
        table = catalogue_table(store, settings.name)
        rows = table.read(table.at(report.version))
        return dg.MaterializeResult(
            metadata=_describe(store, settings.name, report, rows),
            data_version=dg.DataVersion(report.data_version),
            check_results=[_ids_unique(rows), _no_rejects(report)],
        )

    return catalogue


def _describe(
    store: Store, name: str, report: CatalogueReport, rows: pl.DataFrame
) -> dict[str, Any]:
    rejected = sum(report.rejects.values())
    described = {
        **table_metadata(
            store, f"{name}/catalogue", report.version, report.rows, changed=report.changed
        ),
        "dagster/column_schema": table_schema(rows.schema),
        "rejected": rejected,
        "changed_shards": len(report.changed_shards),
        "preview": preview(rows),
    }
    if rejected:
        table = rejects_table(store, name)
        newest = table.latest()
        described["rejects_by_reason"] = counted(report.rejects, "reason")
        if newest is not None:
            described["rejects"] = preview(table.read(newest))
    return described


def _ids_unique(rows: pl.DataFrame) -> dg.AssetCheckResult:
    repeated = rows.height - rows["id"].n_unique()
    return dg.AssetCheckResult(
        check_name="ids_unique", passed=repeated == 0, metadata={"repeated": repeated}
    )


def _no_rejects(report: CatalogueReport) -> dg.AssetCheckResult:
    rejected = sum(report.rejects.values())
    return dg.AssetCheckResult(
        check_name="no_rejects",
        passed=rejected == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"rejected": rejected},
    )
