"""`imgsim match`: two lists in, a table of matches out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, get_args

import click
import polars as pl

from imgsim_assets.catalog.stage import rejects_table
from imgsim_assets.cli import output
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.cli.operands import CatalogArg, ListOptions, resolve_operand
from imgsim_assets.cli.options import (
    download_options,
    encoder_options,
    encoder_settings,
    json_option,
    parse_settings,
    quiet_option,
    store_option,
)
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.index.stage import update_index
from imgsim_assets.pipeline.catalog import Refreshed, refresh
from imgsim_assets.pipeline.status import CatalogStatus, catalog_status
from imgsim_assets.progress import silent
from imgsim_assets.similarity import items
from imgsim_assets.similarity.join import threshold_join
from imgsim_assets.similarity.matches import MatchReport, match_table, update_matches
from imgsim_assets.similarity.pairs import LEAST
from imgsim_assets.similarity.settings import AUTO, MatchSettings, Mode
from imgsim_assets.storage.store import Store

# A table of so many cells is shown without being asked for.
_SMALL = 60
_SHOWN_REJECTS = 3


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
    metavar="FLOAT|auto",
    help="Least cosine, inclusive; auto: what the reports of the catalogs found.  "
    "[default: the encoder's]",
)
@click.option(
    "--mode",
    default="best",
    show_default=True,
    metavar="MODE",
    help=f"Which pairs count: {', '.join(get_args(Mode))}.",
)
@click.option("--k", "-k", type=int, help="How many of each left item, for --mode top_k.")
@click.option("--columns", metavar="A,B,...", help="Columns to carry; the last holds the image.")
@click.option("--id", "id_column", metavar="COLUMN", help="Column of unique ids.")
@click.option("--url", "url_column", metavar="COLUMN", help="Column of URLs or paths.")
@click.option("--delimiter", help="One character.  [default: found by looking]")
@click.option("--no-header", is_flag=True, help="The first line is data: column_1, column_2, ...")
@click.option("--header", metavar="A,B,...", help="Names of the result's columns but the last.")
@click.option("--root", metavar="FOLDER", help="Folder in which local images lie.")
@click.option(
    "--loader",
    metavar="MODULE:FUNCTION",
    help="Called with each row in place of the download; returns bytes or a PIL image.",
)
@click.option("--matrix", is_flag=True, help="Print the similarity of every pair.")
@click.option("--out", metavar="FILE", help="Write .tsv, .csv, .parquet or .jsonl; - for stdout.")
@encoder_options
@download_options
@store_option
@json_option
@quiet_option
def command(
    left: str,
    right: str,
    threshold: str | None,
    mode: str,
    k: int | None,
    columns: str | None,
    id_column: str | None,
    url_column: str | None,
    delimiter: str | None,
    no_header: bool,
    header: str | None,
    root: str | None,
    loader: str | None,
    matrix: bool,
    out: str | None,
    encoder: str,
    encoder_version: str | None,
    weights: str | None,
    batch_size: int | None,
    device: str,
    concurrency: int | None,
    allowed_hosts: tuple[str, ...],
    timeout: float | None,
    store_url: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Match the images of LEFT with those of RIGHT.

    LEFT and RIGHT are lists (csv, tsv, txt, jsonl, parquet), folders of images, or names of
    catalogs in the store. Every column is carried into the result. What the store has already
    is neither fetched nor embedded again.
    """
    output.check_out(out)
    settings = parse_settings(MatchSettings, threshold=_threshold(threshold), mode=mode, k=k)
    download = parse_settings(
        DownloadSettings, concurrency=concurrency, allowed_hosts=allowed_hosts, timeout_s=timeout
    )
    chosen = encoder_settings(encoder, encoder_version, weights, batch_size, device)
    options = ListOptions(
        _split(columns), id_column, url_column, delimiter, not no_header, root, loader
    )
    store = Store.open(store_url)
    operands = [resolve_operand(text, store, options, chosen, download) for text in (left, right)]
    refreshed = _refresh(store, operands, quiet=quiet or as_json)
    update_index(store, operands[1].name)
    report = update_matches(
        store, _table_name(operands, settings, chosen), operands[0].name, operands[1].name, settings
    )
    rows = _rows(store, operands, settings, chosen)
    named = _with_names(rows, _split(header))
    table = _matrix(store, operands) if matrix or _is_small(report) else None
    if out is not None:
        output.write_frame(named, out)
    statuses = [catalog_status(store, each.name) for each in operands]
    if as_json:
        output.show_json(_document(operands, statuses, refreshed, report, rows, table))
    else:
        _tell(store, operands, statuses, refreshed, report, to_stderr=out == output.STDOUT)
        if table is not None and out != output.STDOUT:
            _show_matrix(table)
        if out is None:
            output.show_frame(named)
        elif out != output.STDOUT:
            click.echo(f"{named.height} matches written to {out}")
    return 0 if all(status.vectors for status in statuses) else EXIT_PROBLEMS_FOUND


def _threshold(text: str | None) -> float | str | None:
    if text is None or text == AUTO:
        return text
    try:
        return float(text)
    except ValueError as error:
        raise click.UsageError(f"--threshold: {text!r} is neither a number nor {AUTO!r}") from error


def _split(listed: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in listed.split(",")) if listed else ()


def _refresh(store: Store, operands: Sequence[CatalogArg], *, quiet: bool) -> dict[str, Refreshed]:
    jobs = {each.name: each.job for each in operands if each.job is not None}
    with output.progress_bars(quiet=quiet) as watch:
        log = silent if watch is not None or quiet else output.note
        done = refresh(store, list(jobs.values()), log=log, watch=watch)
    return {each.name: each for each in done}


def _table_name(operands: Sequence[CatalogArg], settings: MatchSettings, encoder: Any) -> str:
    """A table for these settings alone: other runs and declared assets keep theirs."""
    asked = settings.model_dump(mode="json") | {"encoder": encoder.identity}
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    return f"{operands[0].name}__{operands[1].name}.{digest}"


def _rows(
    store: Store, operands: Sequence[CatalogArg], settings: MatchSettings, encoder: Any
) -> pl.DataFrame:
    """The matches with all fields of both operands and the similarity, by left id and rank."""
    table = match_table(store, _table_name(operands, settings, encoder))
    commit = table.latest()
    if commit is None:
        raise AssertionError("a match is committed before it is read")
    rows = table.read(commit).select("left_id", "right_id", "similarity")
    for key, each in zip(("left", "right"), operands, strict=True):
        fields = each.rows(store)
        renamed = fields.rename(
            {name: f"{key}_id_" if name == "__id" else f"__{key}_{name}" for name in fields.columns}
        )
        rows = rows.join(
            renamed, left_on=f"{key}_id", right_on=f"{key}_id_", how="left", maintain_order="left"
        )
    carried = [name for name in rows.columns if name.startswith("__")]
    named = [pl.col(name).alias(name.removeprefix("__")) for name in carried]
    return rows.select(*named, "similarity")


def _with_names(rows: pl.DataFrame, header: Sequence[str]) -> pl.DataFrame:
    if not header:
        return rows
    if len(header) != rows.width - 1 or len({*header, "similarity"}) != rows.width:
        raise click.UsageError(
            f"--header names {len(header)} columns; give {rows.width - 1} different names, for "
            f"{', '.join(rows.columns[:-1])}"
        )
    return rows.rename(dict(zip(rows.columns, header, strict=False)))


def _is_small(report: MatchReport) -> bool:
    return 0 < report.left_items * report.right_items <= _SMALL


def _matrix(store: Store, operands: Sequence[CatalogArg]) -> pl.DataFrame:
    """The cosine of every pair: one row a left item, one column a right one."""
    (_, left), (_, right) = (items.from_embeddings(store, each.name) for each in operands)
    columns: dict[str, Any] = {"left_id": left.keys["id"]}
    if not len(left) or not len(right):
        return pl.DataFrame(columns)
    i, j, cosine = threshold_join(left.vectors, right.vectors, LEAST)
    cells = pl.DataFrame({"i": i, "j": j, "cosine": cosine}).sort("i", "j")["cosine"].to_numpy()
    square = cells.reshape(len(left), len(right))
    # A right item may be called like the first column.
    for number, item in enumerate(right.keys["id"].to_list()):
        columns[item if item != "left_id" else "right left_id"] = square[:, number]
    return pl.DataFrame(columns)


def _show_matrix(table: pl.DataFrame) -> None:
    click.echo("similarity of every pair:")
    output.show_frame(table, rows=max(table.height, 1))


def _document(
    operands: Sequence[CatalogArg],
    statuses: Sequence[CatalogStatus],
    refreshed: dict[str, Refreshed],
    report: MatchReport,
    rows: pl.DataFrame,
    table: pl.DataFrame | None,
) -> dict[str, Any]:
    document: dict[str, Any] = {
        key: {
            "source": each.title,
            "catalog": each.name,
            "items": status.items,
            "rejects": status.rejects,
            "images": status.images,
            "vectors": status.vectors,
            "failures": dict(status.failures),
            "requested": refreshed[each.name].requested if each.name in refreshed else 0,
            "fetched": refreshed[each.name].fetched if each.name in refreshed else 0,
            "embedded": refreshed[each.name].embedded if each.name in refreshed else 0,
        }
        for key, each, status in zip(("left", "right"), operands, statuses, strict=True)
    }
    document |= {"threshold": report.threshold, "seconds": report.seconds, "matches": rows}
    return document | ({"matrix": table} if table is not None else {})


def _tell(
    store: Store,
    operands: Sequence[CatalogArg],
    statuses: Sequence[CatalogStatus],
    refreshed: dict[str, Refreshed],
    report: MatchReport,
    *,
    to_stderr: bool,
) -> None:
    for each, status in zip(operands, statuses, strict=True):
        done = refreshed.get(each.name)
        work = (
            f" ({done.requested} requested, {done.fetched} fetched, {done.embedded} embedded now)"
            if done
            else ""
        )
        click.echo(
            f"{each.title}: {status.items} items, {status.vectors} usable{work}", err=to_stderr
        )
        failures = [f"{kind} {count}" for kind, count in status.failures.items() if kind != "ok"]
        if failures:
            click.echo(f"  without an image: {', '.join(failures)}", err=to_stderr)
        if "blocked_path" in status.failures:
            click.echo("  name the folder that holds the images with --root", err=to_stderr)
        if "blocked_address" in status.failures:
            click.echo(
                "  name internal hosts that may be fetched with --allowed-host", err=to_stderr
            )
        if status.rejects:
            _tell_rejects(store, each, status, to_stderr)
    click.echo(
        f"{report.matches} matches of {report.left_items} x {report.right_items} items at "
        f"{report.threshold:g} or more, {report.left_matched} of the left matched",
        err=to_stderr,
    )


def _tell_rejects(store: Store, each: CatalogArg, status: CatalogStatus, to_stderr: bool) -> None:
    click.echo(f"  rows left out: {status.rejects}", err=to_stderr)
    table = rejects_table(store, each.name)
    commit = table.latest()
    if commit is None:
        return
    for row in table.read(commit).head(_SHOWN_REJECTS).iter_rows(named=True):
        click.echo(f"    {row['file']} line {row['line']}: {row['detail']}", err=to_stderr)
