"""`imgsim groups`: the duplicates within one catalog or across several, by group."""

from __future__ import annotations

from typing import get_args

import click
import polars as pl

from imgsim_assets.cli import options, output
from imgsim_assets.index.stage import update_index
from imgsim_assets.similarity.duplicate_groups import (
    GroupReport,
    across_table,
    groups_table,
    update_across,
    update_groups,
)
from imgsim_assets.similarity.settings import AcrossRule, AcrossSettings, GroupSettings
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

_GROUP_COLUMNS = ("group_id", "size", "min_similarity", "mean_similarity", "bridges")
_MEMBER_COLUMNS = ("catalog", "id", "sha256", "similarity")


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
    "--threshold",
    type=float,
    help="Minimum cosine similarity of a link, inclusive.  [default: the encoder's]",
)
@click.option(
    "--representative",
    metavar="RULE",
    help=f"Which item represents its group: {', '.join(get_args(AcrossRule))}.  "
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
@options.out_option
@options.store_option
@options.json_option
def command(
    catalogs: tuple[str, ...],
    threshold: float | None,
    representative: str | None,
    linkage: str,
    out: str | None,
    store: Store,
    as_json: bool,
) -> None:
    """Update the duplicate groups of the CATALOGs and show them.

    Items with a similarity at or above the threshold are linked, within and across the catalogs;
    linked items form a group. Of several catalogs, the one named first has the highest priority.
    Declared groups are not changed.
    """
    if len(set(catalogs)) < len(catalogs):
        raise click.UsageError("a catalog is named twice; name each once")
    kind: type[AcrossSettings | GroupSettings]
    kind = AcrossSettings if len(catalogs) > 1 else GroupSettings
    settings = options.parse_settings(
        kind,
        threshold=threshold,
        representative=representative,
        close_to_representative=linkage == "star",
    )
    for name in catalogs:
        update_index(store, name)
    table, report = _updated(store, catalogs, settings)
    rows = table.read(table.at(report.version))
    if out is not None:
        output.write_frame(rows, out)
    if as_json:
        document = {"items": report.items, "threshold": report.threshold}
        output.show_json(document | {"groups": _documents(rows)})
    elif out != options.STDOUT:
        click.echo(
            f"{', '.join(catalogs)}: {report.groups} groups of {report.grouped} of {report.items} "
            f"items at {report.threshold:g} or more"
        )
        if out is None and rows.height:
            output.show_frame(rows.drop("sha256", "is_representative"))


def _updated(
    store: Store, catalogs: tuple[str, ...], settings: GroupSettings | AcrossSettings
) -> tuple[Table, GroupReport]:
    """The table of these catalogs and settings alone; a rerun with the same ones updates it."""
    variant = options.settings_hash(settings)
    if isinstance(settings, AcrossSettings):
        name = f"{'__'.join(catalogs)}.{variant}"
        return across_table(store, name), update_across(store, name, catalogs, settings)
    (name,) = catalogs
    report = update_groups(store, name, settings, variant=variant)
    return groups_table(store, name, variant), report


def _documents(rows: pl.DataFrame) -> list[dict[str, object]]:
    """One JSON document per group, with its members in their order."""
    columns = [name for name in _MEMBER_COLUMNS if name in rows.columns]
    members = pl.struct(columns).alias("members")
    by_group = rows.group_by(_GROUP_COLUMNS, maintain_order=True).agg(members)
    return by_group.rename({"group_id": "representative"}).to_dicts()
