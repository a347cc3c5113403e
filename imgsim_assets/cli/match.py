"""`imgsim match`: two lists in, a table of matches out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import click
import numpy as np
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
from imgsim_assets.cli.list_options import ListOptions, list_options
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.cli.operand_summary import OperandSummary
from imgsim_assets.cli.operands import (
    SIDES,
    CatalogArg,
    declared_encoders,
    resolve_operands,
)
from imgsim_assets.cli.option_names import options_by_key
from imgsim_assets.cli.terminal import echo
from imgsim_assets.compute.settings import ComputeSettings
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.gallery.document import Gallery
from imgsim_assets.gallery.page import write_gallery
from imgsim_assets.gallery.pairs import match_gallery
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.invariants import require_invariants, update_index
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.run import fetch_and_embed
from imgsim_assets.pipeline.self_matches import pairs_once, with_room_for_self
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.pipeline.status import catalog_status
from imgsim_assets.similarity.evidence.accepted_pairs import COLUMNS
from imgsim_assets.similarity.evidence.settings import EvidenceSettings
from imgsim_assets.similarity.items import ORIENTATION, VALUE, Items
from imgsim_assets.similarity.matches import MatchReport
from imgsim_assets.similarity.orientations import best_cosine_matrix
from imgsim_assets.similarity.settings import Compare, MatchSettings, Mode
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

# A matrix with no more cells than this is shown without --matrix.
_MAX_SHOWN_CELLS = 60


@click.command(
    epilog="""\b
Examples:
  imgsim match left.csv right.csv --encoder hog_color
  imgsim match left.csv right.csv --columns id,url --threshold 0.845 --out result.tsv
  imgsim match urls.txt photos/ --mode all --out pairs.parquet
  imgsim match products suppliers --mode top_k --k 3 --json
  imgsim match products suppliers --require aligned --out copies.csv
  imgsim match photos/ archive/ --html matches.html
  imgsim match products suppliers --orientations --require aligned
"""
)
@click.argument("left")
@click.argument("right")
@click.option(
    "--threshold",
    metavar="FLOAT|auto|recommended",
    help="Minimum cosine similarity, inclusive; auto: measured on the images of LEFT and RIGHT; "
    "recommended: the one measured for the encoder, else auto.  [default: recommended]",
)
@options.false_matches_option
@click.option(
    "--mode",
    default="best",
    show_default=True,
    metavar="MODE",
    help=f"Which pairs to keep: {', '.join(get_args(Mode))}.",
)
@click.option("--k", "-k", type=int, help="Matches per left item, with --mode top_k.")
@comparison_options
@evidence_options
@list_options
@options.compute_option
@click.option(
    "--result-header",
    metavar="A,B,...",
    callback=options.split_names,
    help="Names of the result columns before similarity.",
)
@click.option("--matrix", is_flag=True, help="Print the similarity of every pair.")
@options.html_option
@options.out_option
@options.encoder_options
@options.download_options
@options.store_option
@options.json_option
@options.quiet_option
def command(
    left: str,
    right: str,
    threshold: str | None,
    false_matches: str | None,
    mode: str,
    k: int | None,
    comparison: dict[str, Any],
    evidence: EvidenceSettings,
    list_options: ListOptions,
    compute: ComputeSettings,
    result_header: tuple[str, ...],
    matrix: bool,
    html: str | None,
    out: str | None,
    encoder: EncoderSettings,
    download: DownloadSettings,
    store: Store,
    as_json: bool,
    quiet: bool,
) -> int:
    """Match the images of LEFT with those of RIGHT.

    LEFT and RIGHT are lists (csv, tsv, txt, jsonl, parquet), folders of images, or names of
    catalogs in the store. The result has all columns of both; of items with several images, the
    one that matched and its number. Images that the store has already are neither fetched nor
    embedded again. A list that is both LEFT and RIGHT is compared with itself: every pair once,
    and no item with itself.
    """
    settings = parse_pair_settings(
        MatchSettings,
        comparison,
        threshold=threshold,
        false_matches=false_matches,
        mode=mode,
        k=k,
        evidence=evidence,
    )
    operands = zip((left, right), SIDES, strict=True)
    args = resolve_operands(operands, store, list_options, encoder, download)
    with output.show_progress(quiet=quiet or as_json) as (log, listener):
        pipelines = {
            arg.name: CatalogPipeline(store, arg.settings, loader=arg.loader, log=log)
            for arg in args
            if arg.settings is not None
        }
        fetched = fetch_and_embed(list(pipelines.values()), listener=listener)
    names = [arg.name for arg in args]
    require_invariants(store, names[0])
    update_index(store, names[1])
    is_self = names[0] == names[1]
    stored = with_room_for_self(settings) if is_self else settings
    matrix_settings = MatchMatrixSettings(
        name="__".join(names),
        left=names[0],
        right=names[1],
        compute=options.on_device(compute, encoder),
    ).model_copy(update=dict(stored))
    variant = options.settings_hash(stored, encoder.identity)
    encoders = declared_encoders(store, args, encoder)
    with output.show_progress(quiet=quiet or as_json) as (log, _):
        pipeline = MatchPipeline(
            store, matrix_settings, variant=variant, encoders=encoders, log=log
        )
        report = pipeline.run()
    pairs = pipeline.rows(report)
    if is_self:
        pairs = pairs_once(pairs, settings)
    matches = _with_source_columns(store, pairs, args)
    renamed = _rename_columns(matches, result_header)
    is_small = 0 < report.left_items * report.right_items <= _MAX_SHOWN_CELLS
    cosines = _matrix(*pipeline.compared(), settings.compare) if matrix or is_small else None
    if html is not None:
        write_gallery(_gallery(store, pairs, args, report), html)
    if out is not None:
        output.write_frame(renamed, out)
    reports = {each.name: each for each in fetched}
    summaries = [
        OperandSummary(arg, catalog_status(store, arg.name), reports.get(arg.name)) for arg in args
    ]
    if as_json:
        output.show_json(_document(summaries, report, matches, cosines))
    else:
        lines = _lines(store, summaries, report, pairs, has_budget=false_matches is not None)
        echo("\n".join(lines), err=out == options.STDOUT)
        if cosines is not None and out != options.STDOUT:
            echo("similarity of every pair:")
            output.show_frame(cosines, max_rows=max(cosines.height, 1))
        if html is not None:
            echo(f"gallery written to {html}", err=out == options.STDOUT)
        if out is None and html is None:
            output.show_frame(renamed)
        elif out not in (None, options.STDOUT):
            echo(f"{counted(renamed.height, 'match', 'matches')} written to {out}")
    return 0 if all(summary.status.vectors for summary in summaries) else EXIT_PROBLEMS_FOUND


def _with_source_columns(
    store: Store, matches: pl.DataFrame, args: Sequence[CatalogArg]
) -> pl.DataFrame:
    """The matches with the source columns of both operands, by left id and rank."""
    pair = [f"{side}_{key}" for side in SIDES for key in ("id", "image")]
    found = [ORIENTATION, *COLUMNS]
    if matches["verdict"].is_not_null().any():
        found.append("verdict")
    values = ["similarity", *(name for name in found if name in matches.columns)]
    rows = matches.select(*pair, *values)
    for side, arg in zip(SIDES, args, strict=True):
        items = arg.item_columns(store)
        # The prefix keeps a source column apart from the columns of the matches.
        columns = items.columns.select(pl.all().name.prefix(f"__{side}_"))
        keys = [f"{side}_id", f"{side}_image"]
        of_side = items.keys.rename(dict(zip(("id", "image"), keys, strict=True)))
        rows = rows.join(of_side.hstack(columns), on=keys, how="left", maintain_order="left")
    names = [name for name in rows.columns if name.startswith("__")]
    return rows.select(*(pl.col(name).alias(name[2:]) for name in names), *values)


def _gallery(
    store: Store, pairs: pl.DataFrame, args: Sequence[CatalogArg], report: MatchReport
) -> Gallery:
    """The pairs with the source columns of their images."""
    left, right = args
    minimum = at_least(report.threshold, report.evidence)
    return match_gallery(
        store,
        pairs,
        title=f"{left.title} and {right.title}",
        subtitle=f"{counted(pairs.height, 'match', 'matches')} {minimum}",
        items={side: arg.item_columns(store) for side, arg in zip(SIDES, args, strict=True)},
        labels=(left.title, right.title),
        keep=True,
    )


def _rename_columns(rows: pl.DataFrame, header: Sequence[str]) -> pl.DataFrame:
    if not header:
        return rows
    # Behind the columns of the lists come those of the result.
    named = rows.columns[: rows.columns.index("similarity")]
    others = rows.columns[len(named) :]
    if len(header) != len(named) or len({*header, *others}) != rows.width:
        raise click.UsageError(
            f"--result-header names {len(header)} columns; give {len(named)} different names, "
            f"for {', '.join(named)}"
        )
    return rows.rename(dict(zip(named, header, strict=True)))


def _matrix(left: Items, right: Items, compare: Compare) -> pl.DataFrame:
    """The similarity of every pair: a row per left item, a column per right item.

    Items without a compared image, and pairs that do not agree in `within`, have no number.
    """
    left_ids, right_ids = (
        items.recorded.all()["id"].unique(maintain_order=True) for items in (left, right)
    )
    shown = np.full((len(left_ids), len(right_ids)), np.nan)
    if len(left) and len(right):
        cosines, left = best_cosine_matrix(left, right), left.upright
        best = np.maximum.reduceat(cosines, right.first_rows, axis=1)
        reduce = np.add if compare == "mean_best" else np.maximum
        matrix = reduce.reduceat(best, left.first_rows, axis=0)
        if compare == "mean_best":
            matrix = matrix / np.bincount(left.numbers)[:, None]
        if VALUE in left.keys.columns:
            of_left, of_right = (
                items.keys[VALUE].gather(items.first_rows).to_numpy() for items in (left, right)
            )
            matrix = np.where(of_left[:, None] == of_right, matrix, np.nan)
        rows, columns = (
            every.is_in(items.ids.to_list()).to_numpy()
            for every, items in ((left_ids, left), (right_ids, right))
        )
        shown[np.ix_(rows, columns)] = matrix
    frame: dict[str, Any] = {"left_id": left_ids}
    for number, item in enumerate(right_ids.to_list()):
        # A right item may have the name of the first column.
        name = item if item != "left_id" else "right left_id"
        frame[name] = pl.Series(shown[:, number], nan_to_null=True)
    return pl.DataFrame(frame)


def _document(
    summaries: Sequence[OperandSummary],
    report: MatchReport,
    matches: pl.DataFrame,
    cosines: pl.DataFrame | None,
) -> dict[str, Any]:
    left, right = (summary.document() for summary in summaries)
    document = {"left": left, "right": right, "threshold": report.threshold}
    document |= {"threshold_source": report.threshold_source}
    document |= {"seconds": report.seconds, "matches": matches}
    document |= {"left_out": report.left_out, "shared": report.shared}
    document |= {"common": report.common, **recall_document(report.recall)}
    return document | ({"matrix": cosines} if cosines is not None else {})


def _lines(
    store: Store,
    summaries: Sequence[OperandSummary],
    report: MatchReport,
    pairs: pl.DataFrame,
    *,
    has_budget: bool,
) -> Iterator[str]:
    left, right = summaries
    is_self = left.arg.name == right.arg.name
    for summary, side in zip(summaries[:1] if is_self else summaries, SIDES, strict=False):
        own = options_by_key(command) | {key: f"--{side}-{key}" for key in ("id", "url")}
        yield from summary.lines(store, own)
    minimum = at_least(report.threshold, report.evidence)
    if is_self:
        matched = pl.concat([pairs["left_id"], pairs["right_id"]]).n_unique()
        yield (
            f"{counted(pairs.height, 'pair')} of {counted(report.left_items, 'item')} {minimum}, "
            f"{matched} of the items matched"
        )
    else:
        yield (
            f"{counted(report.matches, 'match', 'matches')} of {report.left_items} x "
            f"{counted(report.right_items, 'item')} {minimum}, "
            f"{report.left_matched} of the left matched"
        )
    yield from output.threshold_lines(report, has_budget=has_budget)
    yield from turned_lines(report.turned)
    yield from recall_lines(report.recall)
    yield from evidence_lines(report.evidence)
    titles = {summary.arg.name: summary.arg.title for summary in summaries}
    yield from left_out_lines(report.left_out, report.shared, titles)
    yield from common_lines(report.common)
