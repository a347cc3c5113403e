"""`imgsim demo`: run the demo in a checkout of the project."""

from __future__ import annotations

from pathlib import Path

import click

from imgsim_assets.errors import SettingsError
from imgsim_assets.storage.project import find_project_root


@click.command(
    epilog="""\b
Examples:
  imgsim demo
  imgsim demo --ui
"""
)
@click.option("--ui", is_flag=True, help="Open Dagster's web server instead.")
def command(ui: bool) -> int:
    """Materialize two demo catalogs of photographs and show their matches."""
    try:
        import skimage  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"the demo's photographs are not installed ({error}); run "
            "pip install 'imgsim_assets[demo]'"
        ) from error
    from imgsim_assets.demo.__main__ import main

    if not (find_project_root(Path(__file__).parent) / "pyproject.toml").is_file():
        raise SettingsError(
            "the demo needs a checkout of the project; clone it and run 'make demo' there"
        )
    return main(["ui" if ui else "run"])
