"""`imgsim retry`: fetch again what failed and may succeed now."""

from __future__ import annotations

import click

from imgsim_assets.cli import output
from imgsim_assets.cli.options import (
    download_options,
    encoder_override_options,
    json_option,
    parse_settings,
    quiet_option,
    store_option,
)
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.pipeline.retry import Which, retry
from imgsim_assets.progress import silent
from imgsim_assets.storage.store import Store


@click.command(
    epilog="""\b
Examples:
  imgsim retry products --retryable
  imgsim retry products --all --concurrency 8 --timeout 60
"""
)
@click.argument("catalog")
@click.option(
    "--retryable",
    is_flag=True,
    help="Timeouts, server errors and the like, without waiting until they are due.",
)
@click.option("--all", "everything", is_flag=True, help="Every failure, also a 404 or no image.")
@download_options
@encoder_override_options
@store_option
@json_option
@quiet_option
def command(
    catalog: str,
    retryable: bool,
    everything: bool,
    concurrency: int | None,
    allowed_hosts: tuple[str, ...],
    timeout: float | None,
    device: str | None,
    weights: str | None,
    store_url: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch the failed images of CATALOG again, embed what arrives, and update the index."""
    if retryable == everything:
        raise click.UsageError("say which failures: either --retryable or --all")
    settings = parse_settings(
        DownloadSettings, concurrency=concurrency, allowed_hosts=allowed_hosts, timeout_s=timeout
    )
    store = Store.open(store_url)
    with output.progress_bars(quiet=quiet or as_json) as watch:
        log = silent if watch is not None or quiet or as_json else output.note
        which: Which = "all" if everything else "retryable"
        done = retry(
            store,
            catalog,
            settings,
            which=which,
            device=device,
            weights=weights,
            log=log,
            watch=watch,
        )
    if as_json:
        output.show_json(done)
    else:
        click.echo(f"{catalog}: {done.tried} tried again, {done.recovered} arrived")
