"""`imgsim groups`: the duplicates within one catalog or across several, by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import click
import polars as pl

from imgsim_assets.cli import options, output
from imgsim_assets.pipeline.invariants import update_index
from imgsim_assets.similarity.duplicate_groups import GroupReport, GroupStage
from imgsim_assets.similarity.settings import (
    CrossCatalogGroupSettings,
    CrossCatalogRule,
    GroupSettings,
    Linkage,
)
from imgsim_assets.storage.store import Store

_GROUP_COLUMNS = ("group_id", "size", "min_similarity", "mean_similarity", "bridges")
_MEMBER_COLUMNS = ("catalog", "id", "sha256", "similarity")


@click.command(
    epilog="""\b
Examples:
  imgsim groups products
  imgsim groups products --threshold 0.95 --out groups.tsv
  imgsim groups products --canonical first_seen --linkage star --json
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
    "--canonical",
    metavar="RULE,...",
    callback=options.split_names,
    help="Rules for the canonical item of a group, the first decides first: "
    f"{', '.join(get_args(CrossCatalogRule))}.  [default: largest_resolution,largest_file,"
    "first_seen; of several catalogs, catalog_order before them]",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="FOLDER|CATALOG",
    help="Items in this folder, or of this catalog, are canonical before all others and always "
    "kept; repeat it for several.",
)
@click.option(
    "--linkage",
    type=click.Choice(get_args(Linkage)),
    default="connected",
    show_default=True,
    help="connected: any path of links joins a group; star: every member reaches the threshold "
    "with the canonical item.",
)
@options.out_option
@options.store_option
@options.json_option
def command(
    catalogs: tuple[str, ...],
    threshold: float | None,
    canonical: tuple[str, ...],
    keep: tuple[str, ...],
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
    values = {"threshold": threshold, "canonical": canonical, "keep": keep, "linkage": linkage}
    stage = _stage(store, catalogs, values)
    for name in catalogs:
        update_index(store, name)
    report = stage.run()
    rows = stage.table.read(stage.table.at(report.version))
    output.show_result(
        rows,
        f"{', '.join(catalogs)}: {report.groups} groups of {report.grouped} of {report.items} "
        f"items at {report.threshold:g} or more",
        out=out,
        document=_document(report, rows) if as_json else None,
        hidden=("sha256", "is_canonical", "keep"),
    )


def _stage(store: Store, catalogs: tuple[str, ...], values: Mapping[str, object]) -> GroupStage:
    """The stage of these catalogs and settings alone; a rerun with the same ones updates it."""
    if len(catalogs) == 1:
        settings = options.parse_settings(GroupSettings, **values)
        variant = options.settings_hash(settings)
        return GroupStage(store, catalogs[0], settings, variant=variant)
    cross_catalog = options.parse_settings(CrossCatalogGroupSettings, **values)
    name = f"{'__'.join(catalogs)}.{options.settings_hash(cross_catalog)}"
    return GroupStage(store, name, cross_catalog, catalogs=catalogs)


def _document(report: GroupReport, rows: pl.DataFrame) -> dict[str, object]:
    """The JSON document; a group has its members in their order."""
    columns = [name for name in _MEMBER_COLUMNS if name in rows.columns]
    members = pl.struct(columns).alias("members")
    groups = rows.group_by(_GROUP_COLUMNS, maintain_order=True).agg(members)
    return {
        "items": report.items,
        "threshold": report.threshold,
        "groups": groups.rename({"group_id": "canonical"}).to_dicts(),
    }
