"""`imgsim verify`: verify every checksum and invariant of a store."""

from __future__ import annotations

from dataclasses import asdict

import click

from imgsim_assets.cli import options, output
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.cli.terminal import echo
from imgsim_assets.pipeline.repair import repair
from imgsim_assets.pipeline.verify import verify
from imgsim_assets.progress import silent
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted


@click.command(
    epilog="""\b
Examples:
  imgsim verify
  imgsim verify --sample-size 200 --json
  imgsim verify --repair
"""
)
@click.option(
    "--repair",
    "repairs",
    is_flag=True,
    help="First repair what can be repaired without fetching or computing.",
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
def command(repairs: bool, sample_size: int, store: Store, as_json: bool, quiet: bool) -> int:
    """Read everything in the store and verify its checksums and invariants.

    Nothing is changed without --repair. The exit code is 3 if there is a problem.
    """
    log = silent if quiet or as_json else output.log_to_stderr
    done = repair(store, log=log) if repairs else []
    report = verify(store, sample_size=sample_size, log=log)
    if as_json:
        output.show_json({**asdict(report), "repairs": [asdict(each) for each in done]})
    else:
        for each in done:
            echo(f"repaired {each.location}: {each.action}")
        echo(
            f"{counted(report.tables, 'table')}, {counted(report.versions, 'version')}, "
            f"{counted(report.files, 'file')}, {counted(report.blobs, 'image')}, "
            f"{report.bytes / 1e6:.1f} MB verified"
        )
        for problem in report.problems:
            echo(f"{problem.location}: {problem.message}")
        for warning in report.warnings:
            echo(f"{warning.location}: warning: {warning.message}")
        echo(counted(len(report.problems), "problem") if report.problems else "no problems")
    return EXIT_PROBLEMS_FOUND if report.problems else 0
