"""`imgsim add-catalog`: declare a list of images as a catalog of a Dagster project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import yaml

from imgsim_assets.catalog.reader import read_source
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import open_source
from imgsim_assets.catalog.validation import validate_rows
from imgsim_assets.cli.options import json_option, parse_settings
from imgsim_assets.cli.output import show_json
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
@click.option("--name", help="Of the catalog.  [default: from the file's name]")
@click.option("--id", "id_column", metavar="COLUMN", help="Column of unique ids.")
@click.option("--url", "url_column", metavar="COLUMN", help="Column of URLs or paths.")
@click.option("--encoder", metavar="NAME", help="[default: mobilenet_v3_large]")
@click.option("--shards", type=int, help="Partitions.  [default: 4]")
@click.option("--defs", metavar="FOLDER", help="The project's defs folder.  [default: found]")
@json_option
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
    """Write the YAML that declares SOURCE as a catalog, after reading it once."""
    root = find_project_root()
    folder = Path(defs) if defs else _defs_folder(root)
    attributes = _attributes(source, name, id_column, url_column, encoder, shards, root)
    declared = parse_settings(CatalogSettings, **attributes)
    opened = open_source(declared.source, root)
    found = validate_rows(read_source(opened), opened)
    target = folder / declared.name / "defs.yaml"
    if target.exists():
        raise SettingsError(f"{target} is there already; choose another --name, or edit it")
    target.parent.mkdir(parents=True, exist_ok=True)
    document = {"type": "imgsim_assets.ImageCatalogComponent", "attributes": attributes}
    target.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    if as_json:
        show_json(
            {"wrote": str(target), "rows": found.rows.height, "rejects": found.rejects.height}
        )
        return
    click.echo(f"wrote {target}: {found.rows.height} items, {found.rejects.height} rows left out")
    click.echo(f"materialize it: dg launch --assets 'group:{declared.name}'")


def _attributes(
    source: str,
    name: str | None,
    id_column: str | None,
    url_column: str | None,
    encoder: str | None,
    shards: int | None,
    root: Path,
) -> dict[str, Any]:
    place = {"path": _from_root(source, root), "id": id_column, "url": url_column}
    stem = re.sub(r"[^a-z0-9]+", "_", Path(source.rstrip("/")).name.split(".")[0].lower())
    chosen: dict[str, Any] = {
        "name": name or stem.strip("_"),
        "source": {key: value for key, value in place.items() if value is not None},
        "shards": shards,
        "encoder": encoder,
    }
    parse_settings(SourceSettings, **chosen["source"])
    return {key: value for key, value in chosen.items() if value is not None}


def _from_root(source: str, root: Path) -> str:
    """A local path as the YAML has it: from the project's root, if it lies in there."""
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
        bases: tuple[Path, ...] = (root / "src", root)
        for base in bases:
            if module and (base / module).is_dir():
                return base / module / "defs"
    raise SettingsError(
        f"there is no Dagster project at {root}; go to its folder, or name the folder of its "
        "definitions with --defs"
    )
