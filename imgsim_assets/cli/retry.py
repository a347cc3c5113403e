"""`imgsim retry`: fetch again what failed and may succeed now."""

from __future__ import annotations

import click

from imgsim_assets.cli import output
from imgsim_assets.cli.options import (
    download_options,
    json_option,
    made,
    quiet_option,
    store_option,
)
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.model.retrying import retry
from imgsim_assets.progress import silent
from imgsim_assets.storage.store import Store


@click.command(
    epilog="""\b
Examples:
  imgsim retry products --transient
  imgsim retry products --transient --concurrency 8 --timeout 60
"""
)
@click.argument("catalogue")
@click.option(
    "--transient",
    is_flag=True,
    required=True,
    help="Timeouts, server errors and the like, without waiting until they are due.",
)
@download_options
@store_option
@json_option
@quiet_option
def command(
    catalogue: str,
    transient: bool,
    concurrency: int | None,
    allow_hosts: tuple[str, ...],
    timeout: float | None,
    store_url: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch the failed images of CATALOGUE again, embed what arrives, and update the index."""
    settings = made(
        DownloadSettings, concurrency=concurrency, allow_hosts=allow_hosts, timeout=timeout
    )
    log = silent if quiet or as_json else output.note
    done = retry(Store.open(store_url), catalogue, settings, log=log)
    if as_json:
        output.show_json(done)
    else:
        click.echo(f"{catalogue}: {done.tried} tried again, {done.recovered} arrived")
