"""`imgsim graph`: the nearest neighbors of every item of a catalog."""

from __future__ import annotations

from typing import Any

import click

from imgsim_assets.cli import options, output
from imgsim_assets.cli.catalog_argument import require_catalogs
from imgsim_assets.cli.comparison import (
    common_lines,
    comparison_options,
    left_out_lines,
    parse_pair_settings,
    recall_document,
    recall_lines,
    turned_lines,
)
from imgsim_assets.cli.evidence import evidence_lines, evidence_options
from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.pipeline.invariants import update_index
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.graph import GraphReport, GraphStage, graph_table
from imgsim_assets.similarity.materialized import ORIENTATIONS_PROPERTY
from imgsim_assets.similarity.settings import GraphSettings
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted


@click.command(
    epilog="""\b
Examples:
  imgsim graph products -k 5 --out edges.tsv
  imgsim graph products --threshold 0.9 --json
"""
)
@click.argument("catalog")
@click.option("-k", "k", type=int, default=10, show_default=True, help="Neighbors per item.")
@click.option(
    "--threshold",
    metavar="FLOAT|auto|recommended",
    help="Minimum cosine similarity of an edge; auto: measured on the images of CATALOG.",
)
@options.false_matches_option
@comparison_options
@evidence_options
@options.compute_option
@options.out_option
@options.store_option
@options.json_option
def command(
    catalog: str,
    k: int,
    threshold: str | None,
    false_matches: str | None,
    comparison: dict[str, Any],
    evidence: EvidenceSettings,
    compute: ComputeSettings,
    out: str | None,
    store: Store,
    as_json: bool,
) -> None:
    """Update the similarity graph of CATALOG and show its edges.

    A graph with other settings, such as the declared one, is not changed.
    """
    settings = parse_pair_settings(
        GraphSettings,
        comparison,
        k=k,
        threshold=threshold,
        false_matches=false_matches,
        evidence=evidence,
    )
    require_catalogs(store, catalog)
    update_index(store, catalog)
    variant = _variant(store, catalog, settings)
    with output.show_progress(quiet=as_json) as (log, _), use_compute(compute, log):
        stage = GraphStage(store, catalog, settings, variant=variant, log=log)
        report = stage.run()
    edges = stage.table.read(stage.table.at(report.version))
    output.show_result(
        edges,
        "\n".join(
            [
                f"{catalog}: {counted(report.edges, 'edge')} between "
                f"{counted(report.items, 'item')}",
                *output.threshold_lines(report, has_budget=false_matches is not None),
                *turned_lines(report.turned),
                *recall_lines(report.recall),
                *evidence_lines(report.evidence),
                *left_out_lines(report.left_out, report.shared, {}),
                *common_lines(report.common),
            ]
        ),
        out=out,
        document={"items": report.items, "edges": edges, **recall_document(report.recall)}
        if as_json
        else None,
        hidden=_hidden(report),
    )


def _hidden(report: GraphReport) -> list[str]:
    """Columns that a table on the screen leaves out."""
    is_single = report.images == report.items
    columns = ["sha256", "image"] if is_single else ["sha256"]
    return [f"{end}_{column}" for end in ("src", "dst") for column in columns]


def _variant(store: Store, name: str, settings: GraphSettings) -> str | None:
    """None for the catalog's own graph, if it is missing or has these settings."""
    latest = graph_table(store, name).latest()
    values = settings.model_dump(mode="json", exclude={"false_matches"})
    values[ORIENTATIONS_PROPERTY] = settings.orientations or None
    if latest is None or all(latest.properties.get(key) == values[key] for key in values):
        return None
    return options.settings_hash(settings)
