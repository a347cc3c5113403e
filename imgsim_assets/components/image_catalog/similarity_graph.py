"""The asset `similarity_graph` of a catalog: edges from every item to its nearest neighbors."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from imgsim_assets.components.asset_kwargs import CPU_POOL, GPU_POOL, STEP_KWARGS, code_version
from imgsim_assets.components.audits import audit_check
from imgsim_assets.components.checks import (
    asset_check,
    drift_spec,
    recall_results,
    recall_specs,
)
from imgsim_assets.components.columns import EVIDENCE, GRAPH, ORIENTATION, table_schema
from imgsim_assets.components.export import export_table
from imgsim_assets.components.ignore_list import IGNORE_LIST
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.lineage import column_lineage, graph_lineage
from imgsim_assets.components.refusal import refuse_failed_inputs
from imgsim_assets.components.retries import retry_faults
from imgsim_assets.components.store.resource import TABLE_ASSET
from imgsim_assets.pipeline.check_names import AGREES_WITH_BRUTE_FORCE, SIMILARITY_DRIFT

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from imgsim_assets.pipeline.check_result import CheckResult
    from imgsim_assets.similarity.graph import GraphReport
    from imgsim_assets.similarity.settings import GraphSettings
    from imgsim_assets.storage.store import Store

VERSION = "1"


def similarity_graph_asset(catalog: CatalogContext) -> dg.AssetsDefinition:
    """The edges from every item to its nearest neighbors."""
    settings, key = catalog.settings, catalog.key("similarity_graph")
    columns = GRAPH | (ORIENTATION if settings.graph.orientations else {})
    columns |= EVIDENCE if settings.graph.evidence.compute else {}

    @dg.asset(
        **catalog.asset_kwargs("similarity_graph", ["faiss", "parquet"]),
        **TABLE_ASSET,
        **STEP_KWARGS,
        pool=GPU_POOL if settings.graph.orientations else CPU_POOL,
        deps=[
            catalog.key("index"),
            *([catalog.key("items")] if settings.graph.within else []),
            *([catalog.key(IGNORE_LIST)] if settings.graph.ignore is not None else []),
            *catalog.threshold_deps(settings.graph),
        ],
        description=f"Edges from every item to its {settings.graph.k} most similar others.",
        metadata={"dagster/column_schema": table_schema(columns)},
        code_version=code_version(VERSION, settings.graph.model_dump()),
        freshness_policy=catalog.freshness,
        check_specs=[
            drift_spec(key, settings.checks),
            *recall_specs(key, settings.graph, settings.checks),
        ],
    )
    @retry_faults
    def similarity_graph(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from imgsim_assets.components.metadata import last_metadata
        from imgsim_assets.pipeline import checks
        from imgsim_assets.similarity.graph import graph_table

        refuse_failed_inputs(context)
        pipeline = catalog.pipeline(context)
        report = pipeline.graph()
        table = graph_table(pipeline.store, catalog.name)
        version = table.at(report.version)
        limits = settings.checks
        drift = checks.similarity_drift(table, version, limits.max_drift)
        return dg.MaterializeResult(
            metadata=_describe(
                pipeline.store,
                catalog.name,
                catalog.root,
                settings.graph,
                report,
                table.read(version),
                last_metadata(context),
            )
            | export_table(
                pipeline.store, table.name, report.version, settings.export, catalog.root
            )
            | column_lineage(graph_lineage(catalog.key("index"))),
            data_version=dg.DataVersion(report.data_version),
            check_results=[
                asset_check(SIMILARITY_DRIFT, drift, severity=limits.severity),
                *recall_results(version, settings.graph, limits),
            ],
        )

    return similarity_graph


def graph_audit(catalog: CatalogContext) -> dg.AssetChecksDefinition:
    """The edges of sampled items equal those of a brute-force product."""
    limits = catalog.settings.checks

    def evaluate(store: "Store") -> "CheckResult":
        from imgsim_assets.pipeline import checks
        from imgsim_assets.similarity.audit import audit_graph

        audit = audit_graph(store, catalog.name, sample=limits.sample_size)
        return checks.agrees_with_brute_force(audit)

    return audit_check(
        AGREES_WITH_BRUTE_FORCE,
        catalog.key("similarity_graph"),
        "The edges of sampled items equal those of a brute-force product of all vectors: none "
        "missing, none false.",
        limits,
        evaluate,
    )


def _describe(
    store: "Store",
    name: str,
    root: "Path",
    settings: "GraphSettings",
    report: "GraphReport",
    edges: "pl.DataFrame",
    last: Mapping[str, dg.MetadataValue],
) -> dict[str, Any]:
    from imgsim_assets.components.evidence import (
        describe_evidence,
        describe_method,
        describe_turned,
    )
    from imgsim_assets.components.metadata import preview, table_metadata
    from imgsim_assets.components.thresholds import describe_threshold

    linked_images = (
        "similarity_histogram",
        "contact_sheet",
        "left_out_images",
        "shared_images",
        "most_shared_images",
        "common_images",
    )
    is_same = last.get("version") == dg.MetadataValue.int(report.version)
    return {
        **table_metadata(store, f"{name}/similarity_graph", report, report.edges),
        "items": report.items,
        "images": report.images,
        "k": report.k,
        **(describe_threshold(report) if report.threshold is not None else {}),
        **(
            {key: last[key] for key in linked_images if key in last}
            if is_same
            else _linked_images(store, name, root, settings, report, edges)
        ),
        **describe_evidence(report.evidence),
        **describe_turned(report.turned),
        **describe_method(report.recall, report.exact_seconds),
        "incremental": report.incremental,
        "device": report.device,
        "seconds": round(report.seconds, 3),
        "encoder": report.encoder,
        "encoder_fingerprint": report.fingerprint,
        "preview": preview(edges),
    }


def _linked_images(
    store: "Store",
    name: str,
    root: "Path",
    settings: "GraphSettings",
    report: "GraphReport",
    edges: "pl.DataFrame",
) -> dict[str, Any]:
    from imgsim_assets.components import charts
    from imgsim_assets.components.left_out import describe_left_out
    from imgsim_assets.components.metadata import linked_image, svg
    from imgsim_assets.similarity import items
    from imgsim_assets.similarity.calibration import CatalogItems
    from imgsim_assets.similarity.candidates import best_candidates
    from imgsim_assets.similarity.selection import select_images

    left_out = describe_left_out(store, report.left_out, report.shared, report.common)
    if not edges.height:
        return left_out
    index, images = items.from_index(store, name)
    catalog = CatalogItems(name, index, images)
    (nodes,) = select_images(store, settings, root, [catalog]).items
    below = best_candidates(nodes, nodes, edges["src_id"], exclude_self=True)
    histogram = charts.similarity_histogram(
        edges["similarity"], report.threshold, below["similarity"]
    )
    sheet = charts.graph_sheet(store, edges)
    table = f"{name}/similarity_graph"
    return {
        **left_out,
        "similarity_histogram": svg(histogram, "similarity of the edges"),
        "contact_sheet": linked_image(store, table, report.version, "neighbors.jpg", sheet),
    }
