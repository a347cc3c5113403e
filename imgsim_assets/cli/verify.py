"""`imgsim verify`: verify every checksum and invariant of a store."""

from __future__ import annotations

import click

from imgsim_assets.cli import options, output
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.progress import silent
from imgsim_assets.storage.store import Store


@click.command(
    epilog="""\b
Examples:
  imgsim verify
  imgsim verify --sample-size 200 --json
"""
)
@click.option(
    "--sample-size",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Items of each match table and graph to compare with an exhaustive search.",
)
@options.store_option
@options.json_option
@options.quiet_option
def command(sample_size: int, store: Store, as_json: bool, quiet: bool) -> int:
    """Read everything in the store and verify its checksums and invariants; change nothing.

    The exit code is 3 if there is a problem.
    """
    log = silent if quiet or as_json else output.log_to_stderr
    report = verify(store, sample_size=sample_size, log=log)
    if as_json:
        output.show_json(report)
    else:
        click.echo(
            f"{report.tables} tables, {report.versions} versions, {report.files} files, "
            f"{report.blobs} images, {report.bytes / 1e6:.1f} MB verified"
        )
        for problem in report.problems:
            click.echo(f"{problem.location}: {problem.message}")
        click.echo(f"{len(report.problems)} problems" if report.problems else "no problems")
    return EXIT_PROBLEMS_FOUND if report.problems else 0
