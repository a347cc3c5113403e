"""`imgsim graph`: the nearest neighbors of every item of a catalog."""

from __future__ import annotations

import click

from imgsim_assets.cli import output
from imgsim_assets.cli.options import json_option, parse_settings, settings_hash, store_option
from imgsim_assets.index.stage import update_index
from imgsim_assets.similarity.graph import graph_table, update_graph
from imgsim_assets.similarity.settings import GraphSettings
from imgsim_assets.storage.store import Store


@click.command(
    epilog="""\b
Examples:
  imgsim graph products -k 5 --out edges.tsv
  imgsim graph products --threshold 0.9 --json
"""
)
@click.argument("catalog")
@click.option("-k", "k", type=int, default=10, show_default=True, help="Neighbors of each item.")
@click.option("--threshold", type=float, help="Least cosine of an edge.  [default: none]")
@click.option("--out", metavar="FILE", help="Write .tsv, .csv, .parquet or .jsonl; - for stdout.")
@store_option
@json_option
def command(
    catalog: str,
    k: int,
    threshold: float | None,
    out: str | None,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Bring the similarity graph of CATALOG up to its embeddings, and show its edges.

    A graph that is there by another k or threshold, such as a declared one, is left alone.
    """
    output.check_out(out)
    settings = parse_settings(GraphSettings, k=k, threshold=threshold)
    store = Store.open(store_url)
    update_index(store, catalog)
    variant = _variant(store, catalog, settings)
    report = update_graph(store, catalog, settings, variant=variant)
    table = graph_table(store, catalog, variant)
    edges = table.read(table.at(report.version))
    if out is not None:
        output.write_frame(edges, out)
    if as_json:
        output.show_json({"items": report.items, "edges": edges})
    elif out != output.STDOUT:
        click.echo(f"{catalog}: {report.edges} edges between {report.items} items")
        if out is None:
            output.show_frame(edges)


def _variant(store: Store, name: str, settings: GraphSettings) -> str | None:
    """The table of these settings: the catalog's own, unless that is of others."""
    newest = graph_table(store, name).latest()
    asked = settings.model_dump()
    if newest is None or all(newest.properties.get(key) == asked[key] for key in asked):
        return None
    return settings_hash(settings)
