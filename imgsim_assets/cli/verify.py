"""`imgsim verify`: verify every checksum and invariant of a store."""

from __future__ import annotations

import click

from imgsim_assets.cli import output
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.cli.options import json_option, quiet_option, store_option
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
    help="Items of every result that are compared with a plain product.",
)
@store_option
@json_option
@quiet_option
def command(sample_size: int, store_url: str | None, as_json: bool, quiet: bool) -> int:
    """Read everything the store holds and verify it; nothing is changed.

    Exits with 3 when something is wrong.
    """
    log = silent if quiet or as_json else output.note
    found = verify(Store.open(store_url), sample=sample_size, log=log)
    if as_json:
        output.show_json(found)
    else:
        click.echo(
            f"{found.tables} tables, {found.versions} versions, {found.files} files, "
            f"{found.blobs} images, {found.bytes / 1e6:.1f} MB verified"
        )
        for problem in found.problems:
            click.echo(f"{problem.place}: {problem.what}")
        click.echo(f"{len(found.problems)} problems" if found.problems else "no problems")
    return EXIT_PROBLEMS_FOUND if found.problems else 0
