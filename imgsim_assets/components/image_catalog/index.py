"""The asset `index` of a catalog: the persisted FAISS index."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.asset_kwargs import CPU_POOL, STEP_KWARGS, code_version
from imgsim_assets.components.audits import audit_check
from imgsim_assets.components.checks import invariant_results
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.lineage import column_lineage, passthrough_columns
from imgsim_assets.components.refusal import refuse_failed_inputs
from imgsim_assets.components.retries import retry_faults
from imgsim_assets.components.store.resource import TABLE_ASSET
from imgsim_assets.pipeline.check_names import IDS_MATCH_EMBEDDINGS, RECALL_AT_10, SELF_RECALL

if TYPE_CHECKING:
    import polars as pl

    from imgsim_assets.index.stage import IndexReport
    from imgsim_assets.pipeline.check_result import CheckResult
    from imgsim_assets.storage.store import Store

VERSION = "1"


def index_asset(catalog: CatalogContext) -> dg.AssetsDefinition:
    """The FAISS index of every image with a vector."""
    settings = catalog.settings.index

    @dg.asset(
        **catalog.asset_kwargs("index", ["faiss"]),
        **TABLE_ASSET,
        **STEP_KWARGS,
        pool=CPU_POOL,
        deps=[dg.AssetDep(catalog.key("embeddings"), partition_mapping=dg.AllPartitionMapping())],
        description=f"A FAISS index ({settings.kind}) of every image with a vector, with its "
        "table of entries. Images are added and removed as the embeddings change.",
        code_version=code_version(VERSION, settings.model_dump(exclude={"min_recall"})),
        freshness_policy=catalog.freshness,
        check_specs=[
            catalog.invariant_spec("index", IDS_MATCH_EMBEDDINGS, "Index and embeddings agree."),
            catalog.invariant_spec("index", SELF_RECALL, "Sampled vectors find their own image."),
        ],
    )
    @retry_faults
    def index(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.index.stage import open_index
        from imgsim_assets.pipeline.invariants import index_invariants

        refuse_failed_inputs(context)
        pipeline = catalog.pipeline(context)
        report = pipeline.index()
        _, opened = open_index(pipeline.store, catalog.name)
        limits = catalog.settings.checks
        results = index_invariants(pipeline.store, catalog.name, opened, limits)
        return dg.MaterializeResult(
            metadata={
                **_describe(pipeline.store, catalog.name, report, opened.entries),
                **column_lineage(
                    passthrough_columns(catalog.key("embeddings"), ["id", "image", "sha256"])
                ),
            },
            data_version=dg.DataVersion(report.data_version),
            check_results=invariant_results(results, limits),
        )

    return index


def recall_audit(catalog: CatalogContext) -> dg.AssetChecksDefinition:
    """A search of the index finds the nearest neighbors."""
    settings, limits = catalog.settings.index, catalog.settings.checks

    def evaluate(store: "Store") -> "CheckResult":
        from imgsim_assets.index.stage import open_index
        from imgsim_assets.pipeline import checks

        _, index = open_index(store, catalog.name)
        return checks.recall_at_10(index, settings.min_recall, limits.sample_size)

    return audit_check(
        RECALL_AT_10,
        catalog.key("index"),
        f"A search finds {settings.min_recall:.0%} of the 10 nearest neighbors of sampled images.",
        limits,
        evaluate,
    )


def _describe(
    store: "Store", name: str, report: "IndexReport", entries: "pl.DataFrame"
) -> dict[str, Any]:
    from imgsim_assets.components.metadata import preview, schema_of, table_metadata

    return {
        **table_metadata(store, f"{name}/index", report, report.images),
        "items": report.items,
        "images": report.images,
        "kind": report.kind,
        "dim": report.dim,
        "added": report.added,
        "removed": report.removed,
        "moved": report.moved,
        "rebuilt": report.rebuilt,
        "file_bytes": report.bytes,
        "seconds": round(report.seconds, 3),
        "encoder": report.encoder,
        "encoder_fingerprint": report.fingerprint,
        "dagster/column_schema": schema_of(entries.schema),
        "preview": preview(entries),
    }
