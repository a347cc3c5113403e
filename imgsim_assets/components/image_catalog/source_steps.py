"""What a run does for `source` and `catalog`: look at the source, take in its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
import polars as pl

from imgsim_assets.catalog.source import open_source
from imgsim_assets.catalog.stage import (
    ItemsReport,
    ItemsStage,
    items_table,
    rejects_table,
)
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.metadata import counted, preview, schema_of, table_metadata
from imgsim_assets.storage.store import Store

_HASHES = "hashes"


def observe_source(
    context: dg.AssetExecutionContext, blueprint: CatalogContext
) -> dg.ObserveResult:
    """Look at the source's files; those of unchanged size and time are not read again."""
    key = blueprint.key("source")
    blueprint.check_source()
    source = open_source(blueprint.settings.source, blueprint.project.root)
    found = source.fingerprint(_known_hashes(context, key))
    return dg.ObserveResult(
        asset_key=key,
        data_version=dg.DataVersion(found.digest),
        metadata={
            "files": len(source.files),
            "bytes": sum(file.size for file in source.files),
            _HASHES: dg.MetadataValue.json(dict(found.hashes)),
        },
    )


def take_in(
    context: dg.AssetExecutionContext, blueprint: CatalogContext, *, allow_removals: bool
) -> dg.MaterializeResult:
    """Read the source, and commit the rows that can be used and those that cannot."""
    settings = blueprint.settings
    blueprint.check_source()
    store = blueprint.project.store(context.run.run_id)
    report = ItemsStage(
        store,
        settings.name,
        settings.source,
        shards=settings.shards,
        project_root=blueprint.project.root,
        max_removed_fraction=1.0 if allow_removals else settings.checks.max_removed_fraction,
    ).run()
    table = items_table(store, settings.name)
    rows = table.read(table.at(report.version))
    return dg.MaterializeResult(
        metadata=_describe(store, settings.name, report, rows),
        data_version=dg.DataVersion(report.data_version),
        check_results=[_ids_unique(rows), _no_rejects(report)],
    )


def _known_hashes(context: dg.AssetExecutionContext, key: dg.AssetKey) -> Mapping[str, str] | None:
    """The file hashes of the last observation, so that untouched files are not read again."""
    record = context.instance.fetch_observations(key, limit=1).records
    if not record or record[0].asset_observation is None:
        return None
    found = record[0].asset_observation.metadata.get(_HASHES)
    return found.value if isinstance(found, dg.JsonMetadataValue) else None  # type: ignore[return-value]


def _describe(store: Store, name: str, report: ItemsReport, rows: pl.DataFrame) -> dict[str, Any]:
    rejected = sum(report.rejects.values())
    described = {
        **table_metadata(
            store, f"{name}/items", report.version, report.rows, changed=report.changed
        ),
        "dagster/column_schema": schema_of(rows.schema),
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


def _no_rejects(report: ItemsReport) -> dg.AssetCheckResult:
    rejected = sum(report.rejects.values())
    return dg.AssetCheckResult(
        check_name="no_rejects",
        passed=rejected == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"rejected": rejected},
    )
