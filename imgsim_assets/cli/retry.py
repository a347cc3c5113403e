"""`imgsim retry`: fetch failed images again."""

from __future__ import annotations

import click

from imgsim_assets.cli import options, output
from imgsim_assets.cli.catalog_argument import require_catalogs
from imgsim_assets.cli.terminal import echo
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.pipeline.project import declared_download
from imgsim_assets.pipeline.retry import retry_failed
from imgsim_assets.storage.project import find_project_root
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted


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
    help="Timeouts, server errors and other temporary failures, without waiting for their retry "
    "time.",
)
@click.option(
    "--all", "all_failures", is_flag=True, help="Every failure, such as a 404 or a broken file."
)
@options.download_options
@options.encoder_override_options
@options.store_option
@options.json_option
@options.quiet_option
def command(
    catalog: str,
    retryable: bool,
    all_failures: bool,
    download: DownloadSettings,
    device: str | None,
    weights: str | None,
    factory: str | None,
    store: Store,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch the failed images of CATALOG again, embed those that arrive, and update the index.

    The download uses the settings that the project of the working directory declares for the
    catalog, else those that the store has recorded. Options replace single settings.
    """
    if retryable == all_failures:
        raise click.UsageError("choose the failures: either --retryable or --all")
    require_catalogs(store, catalog)
    declared = declared_download(
        find_project_root(), catalog, store, given=download.model_fields_set
    )
    with output.show_progress(quiet=quiet or as_json) as (log, listener):
        if declared is not None:
            log(f"download settings of {declared.file}")
        report = retry_failed(
            store,
            catalog,
            download,
            declared=declared.settings if declared is not None else None,
            retry="all" if all_failures else "retryable",
            device=device,
            weights=weights,
            factory=factory,
            log=log,
            listener=listener,
        )
    if as_json:
        output.show_json(report)
    else:
        echo(f"{catalog}: {counted(report.retried, 'image')} retried, {report.recovered} recovered")
