"""What a run does for `index` and `similarity_graph`: bring them up, describe, check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np

from imgsim_assets.components.charts import graph_sheet, similarity_histogram
from imgsim_assets.components.image_catalog.context import CatalogContext
from imgsim_assets.components.image_catalog.version_checks import brute_force_check, check_drift
from imgsim_assets.components.lineage import carried, column_lineage, of_graph
from imgsim_assets.components.metadata import jpeg, preview, schema_of, svg, table_metadata
from imgsim_assets.index.stage import IndexStage, embedded_items, open_index
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.similarity.audit import audit_graph
from imgsim_assets.similarity.graph import GraphReport, GraphStage, graph_table
from imgsim_assets.storage.store import Store

if TYPE_CHECKING:
    from imgsim_assets.index.flat import FlatIndex

# A vector finds itself unless float32 rounding puts an equal one before it.
_SELF_TOLERANCE = 1e-5


def index_vectors(
    context: dg.AssetExecutionContext, blueprint: CatalogContext
) -> dg.MaterializeResult:
    """Bring the index up to the embeddings, and check what it finds."""
    name, settings = blueprint.name, blueprint.settings.index
    store = blueprint.project.store(context.run.run_id)
    report = IndexStage(store, name, settings, log=context.log.warning).run()
    _, opened = open_index(store, name)
    checks, found = _check_index(store, name, opened, blueprint.settings)
    return dg.MaterializeResult(
        metadata={
            **table_metadata(
                store, f"{name}/index", report.version, report.items, changed=report.changed
            ),
            "kind": report.kind,
            "recall_at_10": found,
            "dim": report.dim,
            "added": report.added,
            "removed": report.removed,
            "rebuilt": report.rebuilt,
            "file_bytes": report.bytes,
            "seconds": round(report.seconds, 3),
            "encoder_fingerprint": report.fingerprint,
            "dagster/column_schema": schema_of(opened.entries.schema),
            "preview": preview(opened.entries),
            **column_lineage(carried(blueprint.key("embeddings"), ["id", "sha256"])),
        },
        data_version=dg.DataVersion(report.data_version),
        check_results=checks,
    )


def link_neighbors(
    context: dg.AssetExecutionContext, blueprint: CatalogContext
) -> dg.MaterializeResult:
    """Bring the graph up to the index, and hold a sample of it against a plain product."""
    settings = blueprint.settings
    store = blueprint.project.store(context.run.run_id)
    report = GraphStage(store, settings.name, settings.graph).run()
    table = graph_table(store, settings.name)
    audit = audit_graph(store, settings.name, sample=settings.checks.sample)
    return dg.MaterializeResult(
        metadata=_describe_graph(store, settings.name, report)
        | column_lineage(of_graph(blueprint.key("index"))),
        data_version=dg.DataVersion(report.data_version),
        check_results=[
            brute_force_check(audit),
            check_drift(table, table.at(report.version), settings.checks),
        ],
    )


def _check_index(
    store: Store, name: str, index: FlatIndex, settings: CatalogSettings
) -> tuple[list[dg.AssetCheckResult], float]:
    """The results of the checks, and the recall that one of them is about."""
    sample = settings.checks.sample
    _, items = embedded_items(store, name)
    entries = index.entries.select("id", "sha256")
    differing = entries.join(items, on=["id", "sha256"], how="anti").height
    differing += items.join(entries, on=["id", "sha256"], how="anti").height
    chosen = np.sort(np.random.default_rng(0).permutation(len(index))[:sample])
    lost = 0
    if len(chosen):
        queries = index.vectors()[chosen]
        positions, scores = index.search(queries, 1)
        shas = entries["sha256"].to_list()
        triples = zip(chosen.tolist(), positions[:, 0].tolist(), scores[:, 0].tolist(), strict=True)
        lost = sum(
            shas[nearest] != shas[asked] and score < 1 - _SELF_TOLERANCE
            for asked, nearest, score in triples
        )
    found = index.recall(k=10, sample=sample)
    return [
        dg.AssetCheckResult(
            check_name="ids_match_embeddings",
            passed=differing == 0,
            metadata={"items": entries.height, "differing": differing},
        ),
        dg.AssetCheckResult(
            check_name="self_recall",
            passed=lost == 0,
            metadata={"sampled": len(chosen), "lost": lost},
        ),
        dg.AssetCheckResult(
            check_name="recall_at_10",
            passed=found >= settings.index.min_recall,
            severity=dg.AssetCheckSeverity[settings.checks.severity.upper()],
            metadata={"recall": found, "least": settings.index.min_recall, "sampled": len(chosen)},
        ),
    ], found


def _describe_graph(store: Store, name: str, report: GraphReport) -> dict[str, Any]:
    table = graph_table(store, name)
    edges = table.read(table.at(report.version))
    described: dict[str, Any] = {
        **table_metadata(
            store, f"{name}/similarity_graph", report.version, report.edges, changed=report.changed
        ),
        "items": report.items,
        "k": report.k,
        **({"threshold": report.threshold} if report.threshold is not None else {}),
        "incremental": report.incremental,
        "seconds": round(report.seconds, 3),
        "encoder_fingerprint": report.fingerprint,
    }
    if edges.height:
        _, index = open_index(store, name)
        described["contact_sheet"] = jpeg(
            graph_sheet(store, edges, index.entries), "items and their neighbors"
        )
        described["similarity_histogram"] = svg(
            similarity_histogram(edges["similarity"], report.threshold), "similarity of the edges"
        )
    described["preview"] = preview(edges)
    return described
