"""`imgsim review`: people's decisions about matches, from and to files."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from pathlib import Path

import click

from imgsim_assets.cli import options, output
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.cli.terminal import echo
from imgsim_assets.pipeline.reviewed import find_reviewed
from imgsim_assets.pipeline.reviews import import_reviews
from imgsim_assets.reviews.table import VERDICTS, read_reviews, without_contradictions
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted


@click.group(
    epilog="""\b
Examples:
  imgsim review import products__suppliers verdicts.csv
  imgsim review export products__suppliers all_verdicts.parquet
  imgsim review import groups/photos verdicts.csv
"""
)
def command() -> None:
    """Import or export people's decisions about the pairs of a match table, or of groups."""


@command.command("import")
@click.argument("result", metavar="MATCH_TABLE|groups/NAME")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--reviewer", help="Who decided, where the file does not say; default: the user's name."
)
@options.store_option
@options.json_option
def import_command(
    result: str, file: Path, reviewer: str | None, store: Store, as_json: bool
) -> int:
    """Add the decisions of FILE (.csv, .tsv, .parquet) to those about a result.

    FILE needs the columns left_id, right_id and verdict, and may have left_sha256, right_sha256,
    reviewer, note and decided_at. In groups across catalogs an id is CATALOG/ID. The next run of
    the match table or the groups honours the decisions.
    """
    report = import_reviews(
        store,
        find_reviewed(store, result),
        file,
        now=datetime.now(UTC).replace(microsecond=0),
        reviewer=reviewer or getpass.getuser(),
    )
    if as_json:
        output.show_json(report._asdict())
    else:
        known = report.rows - report.added - report.unknown
        echo(
            f"{result}: {counted(report.added, 'new decision')}"
            + (f", {known} known already" if known else "")
            + f" (reviews/{result} version {report.version})"
        )
        if report.unknown:
            listed = ", ".join(report.first_unknown)
            echo(
                f"  {report.unknown} about items that are not there, or have no image, were left "
                f"out: {listed}"
            )
    return EXIT_PROBLEMS_FOUND if report.unknown else 0


@command.command("export")
@click.argument("result", metavar="MATCH_TABLE|groups/NAME")
@click.argument("file", callback=options.check_out)
@options.raw_option
@options.store_option
def export_command(result: str, file: str, store: Store) -> None:
    """Write all decisions about a result to FILE (.csv, .tsv, .parquet, .jsonl)."""
    table = find_reviewed(store, result).decisions(store)
    reviews = without_contradictions(read_reviews(table, table.latest()))
    output.write_frame(reviews, file)
    counts = dict(reviews["verdict"].value_counts().iter_rows())
    listed = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if name in counts)
    if file != options.STDOUT:
        echo(
            f"{counted(reviews.height, 'decision')} written to {file}"
            + (f" ({listed})" if listed else "")
        )
