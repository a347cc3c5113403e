"""`imgsim groups`: the items of one or several catalogs that show the same, by group."""

from __future__ import annotations

from typing import get_args

import click
import polars as pl

from imgsim_assets.cli import output
from imgsim_assets.cli.options import json_option, parse_settings, settings_hash, store_option
from imgsim_assets.index.stage import update_index
from imgsim_assets.similarity.duplicate_groups import (
    GroupReport,
    across_table,
    groups_table,
    update_across,
    update_groups,
)
from imgsim_assets.similarity.settings import (
    AcrossRule,
    AcrossSettings,
    GroupSettings,
)
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

_TOLD = ("group_id", "size", "min_similarity", "mean_similarity", "bridges")


@click.command(
    epilog="""\b
Examples:
  imgsim groups products
  imgsim groups products --threshold 0.95 --out groups.tsv
  imgsim groups products --representative oldest --linkage star --json
  imgsim groups products suppliers
"""
)
@click.argument("catalogs", nargs=-1, required=True, metavar="CATALOG...")
@click.option(
    "--threshold", type=float, help="Least cosine of a link, inclusive.  [default: the encoder's]"
)
@click.option(
    "--representative",
    metavar="RULE",
    help=f"Which item stands for its group: {', '.join(get_args(AcrossRule))}.  "
    "[default: pixels; of several catalogs, catalog]",
)
@click.option(
    "--linkage",
    type=click.Choice(["connected", "star"]),
    default="connected",
    show_default=True,
    help="connected: any path of links joins a group; star: every member reaches the threshold "
    "with the representative.",
)
@click.option("--out", metavar="FILE", help="Write .tsv, .csv, .parquet or .jsonl; - for stdout.")
@store_option
@json_option
def command(
    catalogs: tuple[str, ...],
    threshold: float | None,
    representative: str | None,
    linkage: str,
    out: str | None,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Bring the duplicate groups of CATALOGs up to their embeddings, and show them.

    A group is what hangs together by links at or above the threshold, within and across the
    catalogs; their order is their priority. Groups that are declared are left alone.
    """
    output.check_out(out)
    if len(set(catalogs)) < len(catalogs):
        raise click.UsageError("a catalog is named twice; name each once")
    given = {
        "threshold": threshold,
        "representative": representative,
        "close_to_representative": linkage == "star",
    }
    several = len(catalogs) > 1
    settings = (
        parse_settings(AcrossSettings, **given)
        if several
        else parse_settings(GroupSettings, **given)
    )
    store = Store.open(store_url)
    for name in catalogs:
        update_index(store, name)
    table, report = _updated(store, catalogs, settings)
    rows = table.read(table.at(report.version))
    if out is not None:
        output.write_frame(rows, out)
    if as_json:
        output.show_json(
            {"items": report.items, "threshold": report.threshold, "groups": _documents(rows)}
        )
    elif out != output.STDOUT:
        named = ", ".join(catalogs)
        click.echo(
            f"{named}: {report.groups} groups of {report.grouped} of {report.items} items at "
            f"{report.threshold:g} or more"
        )
        if out is None and rows.height:
            output.show_frame(rows.drop("sha256", "is_representative"))


def _updated(
    store: Store, catalogs: tuple[str, ...], settings: GroupSettings | AcrossSettings
) -> tuple[Table, GroupReport]:
    """A table for these settings alone, so that the next run with them updates it."""
    variant = settings_hash(settings)
    if isinstance(settings, AcrossSettings):
        name = f"{'__'.join(catalogs)}.{variant}"
        return across_table(store, name), update_across(store, name, catalogs, settings)
    (name,) = catalogs
    report = update_groups(store, name, settings, variant=variant)
    return groups_table(store, name, variant), report


def _documents(rows: pl.DataFrame) -> list[dict[str, object]]:
    """One document a group, with its members in their order."""
    told = [name for name in ("catalog", "id", "sha256", "similarity") if name in rows.columns]
    members = pl.struct(told).alias("members")
    by_group = rows.group_by(_TOLD, maintain_order=True).agg(members)
    return by_group.rename({"group_id": "representative"}).to_dicts()
