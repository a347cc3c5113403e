"""`imgsim run`: bring a Dagster project up to date in this process."""

from __future__ import annotations

import click

from imgsim_assets.cli.main import EXIT_FAILED
from imgsim_assets.cli.terminal import echo
from imgsim_assets.progress import silent
from imgsim_assets.storage.project import find_project_root


@click.command(
    epilog="""\b
Examples:
  imgsim run
  imgsim run products
  imgsim run products__suppliers
"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Run also what is up to date.")
@click.option("-q", "--quiet", is_flag=True, help="Print failures only.")
def command(names: tuple[str, ...], everything: bool, quiet: bool) -> int:
    """Bring the project's catalogs, match tables and groups up to date, through Dagster.

    NAME is a catalog, a match table or groups, which run with the catalogs that they need.
    Without one, everything that the project declares runs. The runs are recorded in DAGSTER_HOME,
    where Dagster's web server shows them.
    """
    from imgsim_assets.components.local_run import run_project

    log = silent if quiet else echo
    report = run_project(find_project_root(), names, everything=everything, log=log)
    for problem in report.problems():
        echo(f"imgsim: {problem}", err=True)
    return 0 if report.succeeded else EXIT_FAILED
