"""`imgsim groups`: the items of a catalogue that show the same, by group."""

from __future__ import annotations

import hashlib
from typing import get_args

import click
import polars as pl

from imgsim_assets.cli import output
from imgsim_assets.cli.options import json_option, made, store_option
from imgsim_assets.index.stage import update_index
from imgsim_assets.similarity.groups import groups_table, update_groups
from imgsim_assets.similarity.settings import GroupSettings, Representative
from imgsim_assets.storage.store import Store

_TOLD = ("group_id", "size", "min_similarity", "mean_similarity", "bridges")


@click.command(
    epilog="""\b
Examples:
  imgsim groups products
  imgsim groups products --threshold 0.95 --out groups.tsv
  imgsim groups products --representative oldest --close --json
"""
)
@click.argument("catalogue")
@click.option(
    "--threshold", type=float, help="Least cosine of a link, inclusive.  [default: the encoder's]"
)
@click.option(
    "--representative",
    metavar="RULE",
    help=f"Which item stands for its group: {', '.join(get_args(Representative))}.  "
    "[default: pixels]",
)
@click.option(
    "--close",
    is_flag=True,
    help="Every member reaches the threshold with the representative; groups cannot chain.",
)
@click.option("--out", metavar="FILE", help="Write .tsv, .csv, .parquet or .jsonl; - for stdout.")
@store_option
@json_option
def command(
    catalogue: str,
    threshold: float | None,
    representative: str | None,
    close: bool,
    out: str | None,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Bring the duplicate groups of CATALOGUE up to its embeddings, and show them.

    A group is what hangs together by links at or above the threshold. The groups that the
    catalogue declares are left alone.
    """
    output.check_out(out)
    settings = made(
        GroupSettings,
        threshold=threshold,
        representative=representative,
        close_to_representative=close,
    )
    store = Store.open(store_url)
    update_index(store, catalogue)
    variant = _variant(settings)
    report = update_groups(store, catalogue, settings, variant=variant)
    table = groups_table(store, catalogue, variant)
    rows = table.read(table.at(report.version))
    if out is not None:
        output.write_frame(rows, out)
    if as_json:
        output.show_json(
            {"items": report.items, "threshold": report.threshold, "groups": _documents(rows)}
        )
    elif out != output.STDOUT:
        click.echo(
            f"{catalogue}: {report.groups} groups of {report.grouped} of {report.items} items at "
            f"{report.threshold:g} or more"
        )
        if out is None and rows.height:
            output.show_frame(rows.drop("sha256", "is_representative"))


def _variant(settings: GroupSettings) -> str:
    """A table for these settings alone, so that the next run with them updates it."""
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:8]


def _documents(rows: pl.DataFrame) -> list[dict[str, object]]:
    """One document a group, with its members in their order."""
    members = pl.struct("id", "sha256", "similarity").alias("members")
    by_group = rows.group_by(_TOLD, maintain_order=True).agg(members)
    return by_group.rename({"group_id": "representative"}).to_dicts()
