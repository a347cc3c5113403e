"""`imgsim list-images`: write a list of the images in a folder."""

from __future__ import annotations

import csv
from pathlib import Path

import click

from imgsim_assets.cli import options
from imgsim_assets.cli.output import show_json
from imgsim_assets.cli.output_paths import check_outputs
from imgsim_assets.cli.spreadsheet import neutralized
from imgsim_assets.cli.terminal import echo
from imgsim_assets.errors import SettingsError, in_home
from imgsim_assets.search.image_files import list_image_files
from imgsim_assets.text import counted


@click.command(
    epilog="""\b
Examples:
  imgsim list-images photos --out photos.csv
  imgsim list-images photos --no-recursive --delimiter '\\t' --out photos.tsv
"""
)
@click.argument("folder")
@click.option("--out", metavar="FILE", help="The file to write.  [default: FOLDER.csv]")
@click.option(
    "--delimiter", "-d", metavar="CHAR", default=",", show_default=True, help="Field separator."
)
@click.option("--recursive/--no-recursive", default=True, help="Include subfolders (the default).")
@options.raw_option
@options.json_option
@check_outputs
def command(folder: str, out: str | None, delimiter: str, recursive: bool, as_json: bool) -> None:
    """Write a list of the images in FOLDER: name and absolute path, sorted by path.

    Hidden files and files that are not images are skipped.
    """
    separator = "\t" if delimiter == "\\t" else delimiter
    if len(separator) != 1 or separator in '"\r\n':
        raise click.UsageError(f"--delimiter: {delimiter!r} is not a single character")
    target = Path(out or f"{in_home(folder).absolute()}.csv")
    paths = [
        image.name if "://" in folder else str(Path(image.name).absolute())
        for image in list_image_files(folder, "FOLDER", recursive=recursive)
    ]
    try:
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=separator, lineterminator="\n")
            writer.writerow(["name", "path"])
            clean = (lambda text: text) if options.is_raw() else neutralized
            writer.writerows((clean(Path(path).name), clean(path)) for path in paths)
    except OSError as error:
        raise SettingsError(f"--out: {target} cannot be written: {error.strerror}") from error
    if as_json:
        show_json({"out": str(target), "images": len(paths)})
    else:
        echo(f"{counted(len(paths), 'image')} written to {target}")
