"""`imgsim groups`: the duplicates within one list or catalog, or across several, by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click
import polars as pl

from imgsim_assets.cli import options, output
from imgsim_assets.cli.comparison import (
    common_lines,
    comparison_options,
    left_out_lines,
    parse_pair_settings,
    recall_document,
    recall_lines,
    turned_lines,
)
from imgsim_assets.cli.evidence import at_least, evidence_lines, evidence_options
from imgsim_assets.cli.list_options import ListOptions, single_list_options
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.cli.operand_summary import OperandSummary
from imgsim_assets.cli.operands import declared_encoders, resolve_operands
from imgsim_assets.cli.option_names import options_by_key
from imgsim_assets.cli.terminal import echo
from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.compute.tasks import use_compute
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.gallery.groups import group_gallery
from imgsim_assets.gallery.page import write_gallery
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.deletions import RedundantFiles, redundant_files
from imgsim_assets.pipeline.group_checks import suspicious_groups
from imgsim_assets.pipeline.group_members import group_members
from imgsim_assets.pipeline.invariants import update_index
from imgsim_assets.pipeline.run import fetch_and_embed
from imgsim_assets.pipeline.settings import CheckSettings
from imgsim_assets.pipeline.status import catalog_status
from imgsim_assets.progress import Log
from imgsim_assets.similarity.duplicate_groups import GroupReport, GroupStage
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.settings import (
    CrossCatalogGroupSettings,
    CrossCatalogRule,
    GroupSettings,
    Linkage,
)
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

_GROUP_COLUMNS = ("group_id", "size", "min_similarity", "mean_similarity", "bridges")
_MEMBER_COLUMNS = (
    "catalog",
    "id",
    "image",
    "sha256",
    "similarity",
    "orientation",
    "keep",
    "reason",
    "verdict",
)
_SHOWN = (
    "group_id",
    "catalog",
    "id",
    "image",
    "similarity",
    "orientation",
    "size",
    "min_similarity",
    "keep",
    "reason",
)
_MAX_SHOWN = 3


@click.command(
    epilog="""\b
Examples:
  imgsim groups photos --encoder hog_color
  imgsim groups photos --keep photos/master --html groups.html --deletions redundant.txt
  imgsim groups products --threshold 0.95 --out groups.tsv
  imgsim groups products --canonical first_seen --linkage star --json
  imgsim groups products suppliers
"""
)
@click.argument("operands", nargs=-1, required=True, metavar="FOLDER|LIST|CATALOG...")
@click.option(
    "--threshold",
    metavar="FLOAT|auto|recommended",
    help="Minimum cosine similarity of a link, inclusive; auto: measured on the images.  "
    "[default: auto]",
)
@options.false_matches_option
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
@comparison_options
@evidence_options
@click.option(
    "--deletions",
    metavar="FILE",
    callback=options.check_text_file,
    help="Write the paths of the redundant files, one per line. Nothing is deleted.",
)
@click.option(
    "--max-group-fraction",
    type=float,
    help="Groups of more than 10 items with a larger fraction of all items are suspicious.  "
    f"[default: {CheckSettings().max_group_fraction:g}]",
)
@single_list_options
@options.compute_option
@options.html_option
@options.out_option
@options.encoder_options
@options.download_options
@options.store_option
@options.json_option
@options.quiet_option
def command(
    operands: tuple[str, ...],
    threshold: str | None,
    false_matches: str | None,
    canonical: tuple[str, ...],
    keep: tuple[str, ...],
    linkage: str,
    comparison: dict[str, Any],
    evidence: EvidenceSettings,
    deletions: str | None,
    max_group_fraction: float | None,
    list_options: ListOptions,
    compute: ComputeSettings,
    html: str | None,
    out: str | None,
    encoder: EncoderSettings,
    download: DownloadSettings,
    store: Store,
    as_json: bool,
    quiet: bool,
) -> int:
    """Find the duplicates in FOLDERs of images, LISTs or CATALOGs of the store, and show them.

    Items with a similarity at or above the threshold are linked, within and across the operands;
    linked items form a group. Of several operands, the one named first has the highest priority.
    Declared groups are not changed. No file is ever deleted.
    """
    limits = options.parse_settings(CheckSettings, max_group_fraction=max_group_fraction)
    values = {
        "threshold": threshold,
        "false_matches": false_matches,
        "canonical": canonical,
        "linkage": linkage,
        "keep": tuple(_located(entry, operands) for entry in keep),
        "evidence": evidence,
    }
    settings: GroupSettings | CrossCatalogGroupSettings
    if len(operands) == 1:
        settings = parse_pair_settings(GroupSettings, comparison, **values)
    else:
        settings = parse_pair_settings(CrossCatalogGroupSettings, comparison, **values)
    lists = ((text, None) for text in operands)
    args = resolve_operands(lists, store, list_options, encoder, download)
    names = [arg.name for arg in args]
    if len(set(names)) < len(names):
        raise click.UsageError("a catalog is named twice; name each once")
    with output.show_progress(quiet=quiet or as_json) as (log, listener):
        pipelines = [
            CatalogPipeline(store, arg.settings, loader=arg.loader, log=log)
            for arg in args
            if arg.settings is not None
        ]
        fetched = {each.name: each for each in fetch_and_embed(pipelines, listener=listener)}
    for name in names:
        update_index(store, name)
    encoders = declared_encoders(store, args, encoder)
    with output.show_progress(quiet=quiet or as_json) as (log, _):
        stage = _stage(store, names, settings, encoders, log)
        with use_compute(options.on_device(compute, encoder), log):
            report = stage.run()
    commit = stage.table.at(report.version)
    members = group_members(store, stage.table, commit)
    suspicious = suspicious_groups(stage.table, commit, limits)
    redundant = None
    if deletions is not None or as_json:  # it looks at every file
        redundant = redundant_files(store, members, names, suspicious["group_id"].to_list())
    summaries = [
        OperandSummary(arg, catalog_status(store, arg.name), fetched.get(arg.name)) for arg in args
    ]
    title = (
        f"{', '.join(arg.title for arg in args)}: {counted(report.groups, 'group')} of "
        f"{report.grouped} of {counted(report.items, 'item')} "
        f"{at_least(report.threshold, report.evidence)}"
    )
    rows = members if len(names) > 1 else members.drop("catalog")
    if html is not None:
        write_gallery(group_gallery(store, rows, title=title, keep=True), html)
    if out is not None:
        output.write_frame(rows, out)
    if deletions is not None and redundant is not None:
        output.write_text("".join(f"{path}\n" for path in redundant.paths), deletions)
    if as_json:
        output.show_json(_document(summaries, report, rows, suspicious, redundant))
    elif out != options.STDOUT:
        own = options_by_key(command)
        lines = [line for each in summaries if each.report for line in each.lines(store, own)]
        has_budget = false_matches is not None
        lines += [title, *output.threshold_lines(report, finds_copies=True, has_budget=has_budget)]
        lines += turned_lines(report.turned)
        lines += recall_lines(report.recall)
        lines += evidence_lines(report.evidence, "candidates")
        titles = {arg.name: arg.title for arg in args}
        lines += left_out_lines(report.left_out, report.shared, titles)
        lines += common_lines(report.common)
        echo("\n".join([*lines, *_warnings(suspicious)]))
        if html is not None:
            echo(f"gallery written to {html}")
        if out is not None:
            echo(f"{counted(rows.height, 'row')} written to {out}")
        elif html is None and rows.height:
            has_several = (rows["image"] > 0).any()
            hidden = () if has_several else ("image",)
            shown = (name for name in _SHOWN if name in rows.columns and name not in hidden)
            output.show_frame(rows.select(shown))
        if deletions is not None and redundant is not None:
            echo("\n".join(_deletion_lines(redundant, deletions)))
    return 0 if all(each.status.vectors for each in summaries) else EXIT_PROBLEMS_FOUND


def _located(entry: str, operands: Sequence[str]) -> str:
    """A folder as the locations of its images begin; an entry that is no folder as it is."""
    folder = Path(entry)
    if not folder.is_dir():
        return entry
    for operand in map(Path, operands):
        # Links below the operand are not followed, and those above it are.
        if operand.is_dir() and folder.absolute().is_relative_to(operand.absolute()):
            return str(operand.resolve() / folder.absolute().relative_to(operand.absolute()))
    return str(folder.resolve())


def _stage(
    store: Store,
    names: Sequence[str],
    settings: GroupSettings | CrossCatalogGroupSettings,
    encoders: Mapping[str, EncoderSettings],
    log: Log,
) -> GroupStage:
    """The stage of these catalogs and settings alone; a rerun with the same ones updates it."""
    variant = options.settings_hash(settings)
    if len(names) == 1:
        return GroupStage(store, names[0], settings, variant=variant, encoders=encoders, log=log)
    name = f"{'__'.join(names)}.{variant}"
    return GroupStage(store, name, settings, catalogs=names, encoders=encoders, log=log)


def _warnings(suspicious: pl.DataFrame) -> list[str]:
    """The suspicious groups in lines."""
    lines = [
        f"  suspicious: group {group!r} of {counted(size, 'item')}: {problem}"
        for group, size, problem in suspicious.head(_MAX_SHOWN).iter_rows()
    ]
    if suspicious.height > len(lines):
        lines.append(f"  {suspicious.height - len(lines)} more suspicious groups")
    if lines:
        lines.append("  to split them, raise --threshold or set --linkage star")
    return lines


def _deletion_lines(redundant: RedundantFiles, path: str) -> list[str]:
    left_out = [f"  not listed: {count}, {why}" for why, count in redundant.left_out.items()]
    return [f"{len(redundant.paths)} redundant files listed in {path}; none is deleted", *left_out]


def _document(
    summaries: Sequence[OperandSummary],
    report: GroupReport,
    rows: pl.DataFrame,
    suspicious: pl.DataFrame,
    redundant: RedundantFiles | None,
) -> Mapping[str, Any]:
    """The JSON document; a group has its members in their order."""
    columns = [name for name in _MEMBER_COLUMNS if name in rows.columns]
    members = pl.struct(columns).alias("members")
    groups = rows.group_by(_GROUP_COLUMNS, maintain_order=True).agg(members)
    return {
        "operands": [each.document() for each in summaries],
        "items": report.items,
        "images": report.images,
        "threshold": report.threshold,
        "threshold_source": report.threshold_source,
        "groups": groups.rename({"group_id": "canonical"}).to_dicts(),
        "suspicious": suspicious,
        "left_out": report.left_out,
        **recall_document(report.recall),
        "shared_images": report.shared,
        "common_images": report.common,
        "redundant_files": redundant,
    }
