"""`imgsim match`: two lists in, a table of matches out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
import polars as pl

from imgsim_assets.catalog.stage import rejects_table
from imgsim_assets.cli import options, output
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.cli.operands import SIDES, CatalogArg, resolve_operand, source_lines
from imgsim_assets.cli.option_names import in_shell_words, options_by_key
from imgsim_assets.cli.terminal import echo
from imgsim_assets.download.http.urls import host_of, is_internal
from imgsim_assets.download.ledger.table import ledger_table
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import RECOMMENDED, EncoderSettings
from imgsim_assets.pipeline.catalog import CatalogPipeline
from imgsim_assets.pipeline.invariants import require_invariants, update_index
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.run import PipelineReport, fetch_and_embed
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.pipeline.status import CatalogStatus, catalog_status
from imgsim_assets.similarity import items
from imgsim_assets.similarity.join import threshold_join
from imgsim_assets.similarity.matches import MatchReport
from imgsim_assets.similarity.neighbor_lists import MIN_COSINE
from imgsim_assets.similarity.settings import MatchSettings, Mode
from imgsim_assets.storage.store import Store

# A matrix with no more cells than this is shown without --matrix.
_MAX_SHOWN_CELLS = 60
_MAX_SHOWN_REJECTS = 3
_MAX_SHOWN_HOSTS = 3


@click.command(
    epilog="""\b
Examples:
  imgsim match left.csv right.csv --encoder hog_color
  imgsim match left.csv right.csv --columns id,url --threshold 0.845 --out result.tsv
  imgsim match urls.txt photos/ --mode all --out pairs.parquet
  imgsim match products suppliers --mode top_k --k 3 --json
"""
)
@click.argument("left")
@click.argument("right")
@click.option(
    "--threshold",
    default=RECOMMENDED,
    show_default=True,
    metavar="FLOAT|auto|recommended",
    help="Minimum cosine similarity, inclusive; auto: as `imgsim recommend-threshold` measured "
    "it; recommended: the encoder's own.",
)
@click.option(
    "--mode",
    default="best",
    show_default=True,
    metavar="MODE",
    help=f"Which pairs to keep: {', '.join(get_args(Mode))}.",
)
@click.option("--k", "-k", type=int, help="Matches per left item, with --mode top_k.")
@options.list_options
@click.option(
    "--result-header",
    metavar="A,B,...",
    callback=options.split_names,
    help="Names of all result columns but the last.",
)
@click.option("--matrix", is_flag=True, help="Print the similarity of every pair.")
@options.out_option
@options.encoder_options
@options.download_options
@options.store_option
@options.json_option
@options.quiet_option
def command(
    left: str,
    right: str,
    threshold: str,
    mode: str,
    k: int | None,
    list_options: options.ListOptions,
    result_header: tuple[str, ...],
    matrix: bool,
    out: str | None,
    encoder: EncoderSettings,
    download: DownloadSettings,
    store: Store,
    as_json: bool,
    quiet: bool,
) -> int:
    """Match the images of LEFT with those of RIGHT.

    LEFT and RIGHT are lists (csv, tsv, txt, jsonl, parquet), folders of images, or names of
    catalogs in the store. The result has all columns of both. Images that the store has already
    are neither fetched nor embedded again.
    """
    settings = options.parse_settings(MatchSettings, threshold=threshold, mode=mode, k=k)
    args = [
        resolve_operand(text, side, store, list_options, encoder, download)
        for text, side in zip((left, right), SIDES, strict=True)
    ]
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
    matrix_settings = MatchMatrixSettings(
        name="__".join(names), left=names[0], right=names[1], **settings.model_dump()
    )
    variant = options.settings_hash(settings, encoder.identity)
    pipeline = MatchPipeline(store, matrix_settings, variant=variant)
    report = pipeline.run()
    matches = _with_source_columns(store, pipeline.rows(report), args)
    renamed = _rename_columns(matches, result_header)
    is_small = 0 < report.left_items * report.right_items <= _MAX_SHOWN_CELLS
    cosines = _matrix(store, args) if matrix or is_small else None
    if out is not None:
        output.write_frame(renamed, out)
    reports = {each.name: each for each in fetched}
    summaries = [
        _Summary(arg, catalog_status(store, arg.name), reports.get(arg.name)) for arg in args
    ]
    if as_json:
        output.show_json(_document(summaries, report, matches, cosines))
    else:
        lines = _lines(store, summaries, report)
        echo("\n".join(lines), err=out == options.STDOUT)
        if cosines is not None and out != options.STDOUT:
            echo("similarity of every pair:")
            output.show_frame(cosines, max_rows=max(cosines.height, 1))
        if out is None:
            output.show_frame(renamed)
        elif out != options.STDOUT:
            echo(f"{renamed.height} matches written to {out}")
    return 0 if all(summary.status.vectors for summary in summaries) else EXIT_PROBLEMS_FOUND


def _with_source_columns(
    store: Store, matches: pl.DataFrame, args: Sequence[CatalogArg]
) -> pl.DataFrame:
    """The matches with the source columns of both operands, by left id and rank."""
    keys = [f"{side}_{key}" for side in SIDES for key in ("id", "image")]
    # Without the columns of images, every match is one of first images.
    missing = [key for key in keys if key not in matches.columns]
    rows = matches.with_columns(pl.lit(0, pl.Int32).alias(key) for key in missing)
    rows = rows.select(*keys, "similarity")
    for side, arg in zip(SIDES, args, strict=True):
        # The prefix keeps a source column apart from the columns of the matches.
        source_rows = arg.rows(store).select(pl.all().name.prefix(f"__{side}_"))
        rows = rows.join(
            source_rows,
            left_on=[f"{side}_id", f"{side}_image"],
            right_on=[f"__{side}___id", f"__{side}___image"],
            how="left",
            maintain_order="left",
        )
    names = [name for name in rows.columns if name.startswith("__")]
    return rows.select(*(pl.col(name).alias(name[2:]) for name in names), "similarity")


def _rename_columns(rows: pl.DataFrame, header: Sequence[str]) -> pl.DataFrame:
    if not header:
        return rows
    if len(header) != rows.width - 1 or len({*header, "similarity"}) != rows.width:
        raise click.UsageError(
            f"--result-header names {len(header)} columns; give {rows.width - 1} different names, "
            f"for {', '.join(rows.columns[:-1])}"
        )
    return rows.rename(dict(zip(rows.columns, header, strict=False)))


def _matrix(store: Store, args: Sequence[CatalogArg]) -> pl.DataFrame:
    """The cosine similarity of every pair: a row per left item, a column per right item."""
    (_, left), (_, right) = (items.from_embeddings(store, arg.name) for arg in args)
    columns: dict[str, Any] = {"left_id": left.keys["id"]}
    if not len(left) or not len(right):
        return pl.DataFrame(columns)
    i, j, cosine = threshold_join(left.vectors, right.vectors, MIN_COSINE)
    cells = pl.DataFrame({"i": i, "j": j, "cosine": cosine}).sort("i", "j")["cosine"].to_numpy()
    matrix = cells.reshape(len(left), len(right))
    for number, item in enumerate(right.keys["id"].to_list()):
        # A right item may have the name of the first column.
        columns[item if item != "left_id" else "right left_id"] = matrix[:, number]
    return pl.DataFrame(columns)


@dataclass(frozen=True)
class _Summary:
    """An operand, its catalog's status, and the report of this run, None without one."""

    arg: CatalogArg
    status: CatalogStatus
    report: PipelineReport | None

    def document(self) -> dict[str, Any]:
        counts = ("items", "rejects", "images", "vectors", "failures")
        return {
            "source": self.arg.title,
            "catalog": self.arg.name,
            **{name: getattr(self.status, name) for name in counts},
            **_source_document(self.arg, self.report),
            # A catalog of the store has no report: this run did nothing for it.
            **{
                name: getattr(self.report, name, 0) for name in ("requested", "fetched", "embedded")
            },
        }


def _source_document(arg: CatalogArg, report: PipelineReport | None) -> dict[str, Any]:
    if report is None or report.items is None:
        return {}
    items = report.items
    return {
        "id_column": items.id_column,
        "url_columns": items.url_columns,
        "notices": [*arg.notices, *items.notices],
    }


def _document(
    summaries: Sequence[_Summary],
    report: MatchReport,
    matches: pl.DataFrame,
    cosines: pl.DataFrame | None,
) -> dict[str, Any]:
    left, right = (summary.document() for summary in summaries)
    document = {"left": left, "right": right, "threshold": report.threshold}
    document |= {"seconds": report.seconds, "matches": matches}
    return document | ({"matrix": cosines} if cosines is not None else {})


def _lines(store: Store, summaries: Sequence[_Summary], report: MatchReport) -> Iterator[str]:
    for summary, side in zip(summaries, SIDES, strict=True):
        own = options_by_key(command) | {key: f"--{side}-{key}" for key in ("id", "url")}
        status, done = summary.status, summary.report
        line = f"{summary.arg.title}: {status.items} items, {status.vectors} usable"
        if done is not None:
            line += (
                f" ({done.requested} requested, {done.fetched} fetched, {done.embedded} embedded)"
            )
        yield line
        if done is not None and done.items is not None:
            items = done.items
            is_folder = Path(summary.arg.title).is_dir()
            columns = (items.id_column, items.url_columns)
            notices = [*summary.arg.notices, *items.notices]
            for notice in notices if is_folder else source_lines(*columns, notices):
                yield f"  {in_shell_words(notice, own)}"
        if status.failures:
            counts = ", ".join(f"{name} {count}" for name, count in status.failures.items())
            yield f"  failed: {counts}"
        if "blocked_path" in status.failures:
            yield "  if local images may be read from another folder, name it with --root"
        if not status.failures.keys().isdisjoint(("blocked_address", "connection_error")):
            yield from _internal_hosts(store, summary.arg.name)
        if status.rejects:
            yield f"  rejected rows: {status.rejects}"
            table = rejects_table(store, summary.arg.name)
            commit = table.latest()
            rows = table.read(commit).head(_MAX_SHOWN_REJECTS) if commit else pl.DataFrame()
            for row in rows.iter_rows(named=True):
                detail = in_shell_words(row["detail"], own)
                yield f"    {row['file']} line {row['line']}: {detail}"
    yield (
        f"{report.matches} matches of {report.left_items} x {report.right_items} items at "
        f"{report.threshold:g} or more, {report.left_matched} of the left matched"
    )


def _internal_hosts(store: Store, name: str) -> Iterator[str]:
    """The internal hosts that were not dialed or do not answer, and what helps."""
    ledger = ledger_table(store, name)
    commit = ledger.latest()
    if commit is None:
        return
    rows = ledger.read(commit, columns=["url", "status"])
    for status, advice in (
        ("blocked_address", "if it may be fetched from, add --allowed-host {}"),
        ("connection_error", "it does not answer: is its server running?"),
    ):
        hosts = sorted(set(map(host_of, rows.filter(pl.col("status") == status)["url"])))
        internal = [host for host in hosts if status == "blocked_address" or _is_internal(host)]
        for host in internal[:_MAX_SHOWN_HOSTS]:
            yield f"  {host} is an internal host; {advice.format(host)}"


def _is_internal(host: str) -> bool:
    return is_internal(host.rpartition(":")[0].strip("[]"))
