"""`imgsim demo`: the demo of a checkout of the project."""

from __future__ import annotations

import click

from imgsim_assets.errors import SettingsError


@click.command()
@click.option("--ui", is_flag=True, help="Open it in Dagster's web server.")
def command(ui: bool) -> int:
    """Materialize two demo catalogues of photographs and show what matches."""
    try:
        import skimage  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"the demo's photographs are not installed ({error}); pip install 'imgsim_assets[demo]'"
        ) from error
    from imgsim_assets.demo.__main__ import main

    return main(["ui" if ui else "run"])
