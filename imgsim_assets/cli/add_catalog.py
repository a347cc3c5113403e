"""`imgsim add-catalog`: declare a list of images as a catalog of a Dagster project."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click
import yaml

from imgsim_assets.catalog.reader import read_source
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import open_source
from imgsim_assets.catalog.validation import validate_rows
from imgsim_assets.cli import options
from imgsim_assets.cli.operands import name_from_path
from imgsim_assets.cli.output import show_json
from imgsim_assets.cli.terminal import echo
from imgsim_assets.errors import SettingsError
from imgsim_assets.pipeline.settings import CatalogSettings
from imgsim_assets.storage.store import find_project_root


@click.command(
    epilog="""\b
Examples:
  imgsim add-catalog data/products.csv
  imgsim add-catalog data/products.csv --id sku --url image_url --encoder hog_color
"""
)
@click.argument("source")
@click.option("--name", help="Name of the catalog.  [default: from the file's name]")
@click.option("--id", "id_column", metavar="COLUMN", help="Column of unique ids.")
@click.option("--url", "url_column", metavar="COLUMN", help="Column of image URLs or paths.")
@click.option("--encoder", metavar="NAME", help="As in YAML.  [default: mobilenet_v3_large]")
@click.option("--shards", type=int, help="Number of partitions.  [default: 4]")
@click.option("--defs", metavar="FOLDER", help="The project's defs folder.  [default: detected]")
@options.json_option
def command(
    source: str,
    name: str | None,
    id_column: str | None,
    url_column: str | None,
    encoder: str | None,
    shards: int | None,
    defs: str | None,
    as_json: bool,
) -> None:
    """Read SOURCE once and write the YAML that declares it as a catalog."""
    root = find_project_root()
    folder = Path(defs) if defs else _defs_folder(root)
    columns = {"id": id_column, "url": url_column}
    source_settings = options.parse_settings(
        SourceSettings, path=_relative_to(root, source), **columns
    )
    attributes: dict[str, Any] = {
        "name": name or name_from_path(source),
        "source": source_settings.model_dump(exclude_unset=True),
        "shards": shards,
        "encoder": encoder,
    }
    attributes = {key: value for key, value in attributes.items() if value is not None}
    settings = options.parse_settings(CatalogSettings, **attributes)
    opened = open_source(settings.source, root)
    validated = validate_rows(read_source(opened), opened)
    target = folder / settings.name / "defs.yaml"
    if target.exists():
        raise SettingsError(f"{target} exists already; choose another --name, or edit it")
    target.parent.mkdir(parents=True, exist_ok=True)
    document = {"type": "imgsim_assets.ImageCatalogComponent", "attributes": attributes}
    target.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    items, rejects = validated.rows.height, validated.rejects.height
    if as_json:
        show_json({"wrote": str(target), "items": items, "rejects": rejects})
        return
    echo(f"wrote {target}: {items} items, {rejects} rejected rows")
    echo(
        f"materialize it: reload the code location in Dagster's web server, and materialize the "
        f"group {settings.name} with all partitions"
    )


def _relative_to(root: Path, source: str) -> str:
    """A local path inside the project relative to its root; any other one absolute."""
    if "://" in source:
        return source
    path = Path(source).expanduser().absolute()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _defs_folder(root: Path) -> Path:
    for name in ("pyproject.toml", "dg.toml"):
        path = root / name
        if not path.is_file():
            continue
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        project = document.get("tool", {}).get("dg", document).get("project", {})
        module = str(project.get("root_module", ""))
        for base in (root / "src", root):
            if module and (base / module).is_dir():
                return base / module / "defs"
    raise SettingsError(
        f"there is no Dagster project at {root}; change to its folder, or name its definitions "
        "folder with --defs"
    )
