"""`imgsim add-catalog`: declare a list of images as a catalog of a Dagster project."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from imgsim_assets.catalog.image_rows import image_rows
from imgsim_assets.catalog.reader import read_source
from imgsim_assets.catalog.rejects import count_images, describe_rejects
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import open_source
from imgsim_assets.catalog.validation import ValidatedRows, no_rows_message, validate_rows
from imgsim_assets.cli import options
from imgsim_assets.cli.list_options import source_options
from imgsim_assets.cli.operands import absolute_paths, name_from_path, source_lines
from imgsim_assets.cli.option_names import in_shell_words, options_by_key
from imgsim_assets.cli.output import show_json
from imgsim_assets.cli.terminal import echo
from imgsim_assets.errors import SettingsError, SourceError, in_home
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.storage.project import defs_folder, find_project_root
from imgsim_assets.text import counted


@click.command(
    epilog="""\b
Examples:
  imgsim add-catalog data/products.csv
  imgsim add-catalog data/products.csv --id sku --url image_url --encoder hog_color
"""
)
@click.argument("source")
@click.option("--name", help="Name of the catalog.  [default: from the file's name]")
@source_options
@click.option("--encoder", metavar="NAME", help="As in YAML.  [default: imgsim_copy]")
@click.option("--shards", type=int, help="Number of partitions.  [default: 4]")
@click.option("--defs", metavar="FOLDER", help="The project's defs folder.  [default: detected]")
@options.json_option
def command(
    source: str,
    name: str | None,
    source_values: Mapping[str, Any],
    encoder: str | None,
    shards: int | None,
    defs: str | None,
    as_json: bool,
) -> None:
    """Read SOURCE once and write the YAML that declares it as a catalog."""
    root = find_project_root()
    folder = Path(defs) if defs else _defs_folder(root)
    source_settings = options.parse_settings(
        SourceSettings, path=_relative_to(root, source), **source_values
    )
    attributes: dict[str, Any] = {
        "name": name or name_from_path(source),
        "source": source_settings.model_dump(mode="json", exclude_unset=True),
        "shards": shards,
        "encoder": encoder,
    }
    attributes = {key: value for key, value in attributes.items() if value is not None}
    settings = options.parse_settings(CatalogSettings, **attributes)
    opened = open_source(settings.source, root)
    validated = validate_rows(read_source(opened), opened)
    if not validated.rows.height:
        raise SourceError(no_rows_message(validated, opened))
    if opened.format != "images":
        # The chosen columns stay the same when the list gets others.
        attributes["source"] |= _columns(validated) | _root(validated, source, settings.source)
    target = folder / settings.name / "defs.yaml"
    if target.exists():
        raise SettingsError(f"{target} exists already; choose another --name, or edit it")
    target.parent.mkdir(parents=True, exist_ok=True)
    document = {"type": "imgsim_assets.ImageCatalogComponent", "attributes": attributes}
    target.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    items, images = validated.rows.height, image_rows(validated.rows).height
    count = validated.rejects.height
    rejected_images = count_images(validated.rejects)
    if as_json:
        counts = {"items": items, "images": images, "rejects": count}
        show_json({"wrote": str(target), **counts, **_columns(validated)})
        return
    found = counted(items, "item")
    found += f" with {counted(images, 'image')}" if images != items else ""
    refused = counted(count - rejected_images, "rejected row")
    refused += f", {counted(rejected_images, 'rejected image')}" if rejected_images else ""
    echo(f"wrote {target}: {found}, {refused}")
    for line in source_lines(validated.id_column, validated.url_columns, validated.notices):
        echo(f"  {in_shell_words(line, options_by_key(command))}")
    if "root" in attributes["source"]:
        echo(f"  local images from the folder {attributes['source']['root']!r} and below")
    if count:
        echo(f"  {in_shell_words(describe_rejects(validated.rejects), options_by_key(command))}")
    echo(f"to materialize it: imgsim run {settings.name}")


def _columns(validated: ValidatedRows) -> dict[str, Any]:
    """The columns to declare, and the separator; without ids only those of the images."""
    urls, separator = validated.url_columns, validated.separator
    columns: dict[str, Any] = {} if validated.id_column in urls else {"id": validated.id_column}
    columns["url"] = urls[0] if len(urls) == 1 else list(urls)
    return columns | ({"separator": separator} if separator is not None else {})


def _root(validated: ValidatedRows, source: str, settings: SourceSettings) -> dict[str, str]:
    """The folder of images whose paths are absolute, unless it is inside the list's own or '/'."""
    paths = absolute_paths(image_rows(validated.rows)["url"])
    if settings.root or not paths or "://" in source:
        return {}
    folder = os.path.commonpath([Path(os.path.normpath(path)).parent for path in paths])
    own = in_home(source).absolute().parent
    return {} if folder == "/" or Path(folder).is_relative_to(own) else {"root": folder}


def _relative_to(root: Path, source: str) -> str:
    """A local path inside the project relative to its root; any other one absolute."""
    if "://" in source:
        return source
    path = in_home(source).absolute()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _defs_folder(root: Path) -> Path:
    folder = defs_folder(root)
    if folder is None:
        raise SettingsError(
            f"there is no Dagster project at {str(root)!r}; change to its folder, or name its "
            "definitions folder with --defs"
        )
    return folder
