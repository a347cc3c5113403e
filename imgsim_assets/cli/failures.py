"""`imgsim failures`: every rejected row, failed image and undecodable image of a catalog."""

from __future__ import annotations

import click

from imgsim_assets.cli import options, output
from imgsim_assets.cli.catalog_argument import require_catalogs
from imgsim_assets.cli.terminal import echo
from imgsim_assets.pipeline.failures import most_important, read_failures, shown_columns
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

_SHOWN = 20
_SHOWN_COLUMNS = (
    *("id", "image", "url", "stage", "status", "next_retry_at", "detail"),
    *("file", "line", "text"),
)


@click.command(
    epilog="""\b
Examples:
  imgsim failures products
  imgsim failures products --out failed.csv
"""
)
@click.argument("catalog")
@options.out_option
@options.store_option
@options.json_option
def command(catalog: str, out: str | None, store: Store, as_json: bool) -> None:
    """Show what failed in CATALOG, or write all of it, with the columns of the source.

    Rejected rows of the source, images that could not be fetched and images that could not be
    embedded are in one table.
    """
    require_catalogs(store, catalog)
    failures = read_failures(store, catalog)
    if out is not None:
        output.write_frame(failures, out)
    if as_json:
        output.show_json(failures)
    elif out != options.STDOUT:
        by_stage = failures["stage"].value_counts().sort("stage", descending=True)
        counts = ", ".join(f"{count} in {stage}" for stage, count in by_stage.iter_rows())
        echo(
            f"{catalog}: {counted(failures.height, 'failure')}" + (f" ({counts})" if counts else "")
        )
        if out is not None:
            echo(f"{counted(failures.height, 'row')} written to {out}")
        elif failures.height:
            important = shown_columns(most_important(failures, _SHOWN), _SHOWN_COLUMNS)
            output.show_frame(important, max_rows=_SHOWN)
            if failures.height > _SHOWN:
                echo("the most important ones are shown; write all with --out failed.csv")
