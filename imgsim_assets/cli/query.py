"""`imgsim query`: what is most similar to some images."""

from __future__ import annotations

from pathlib import Path

import click
import polars as pl

from imgsim_assets.cli import output
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.cli.options import (
    download_options,
    encoder_override_options,
    json_option,
    parse_settings,
    quiet_option,
    store_option,
)
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.search.model import ImageSimilarityModel, load_model
from imgsim_assets.search.saved_model import is_saved_model


@click.command(
    epilog="""\b
Examples:
  imgsim query products photo.jpg -k 10
  imgsim query products photos/*.jpg --orientations --out found.tsv
  imgsim query products photos/*.jpg --html found.html
  imgsim query shelf.model https://example.com/photo.jpg --radius 0.6
"""
)
@click.argument("catalog")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-k", "k", type=int, default=5, show_default=True, help="Neighbors of each image.")
@click.option("--all", "no_limit", is_flag=True, help="Every item, not only the k nearest.")
@click.option("--radius", type=float, help="Greatest distance, inclusive.")
@click.option("--orientations", is_flag=True, help="Also turn and mirror each image.")
@click.option("--html", metavar="FILE", help="Write a gallery of the images and what is found.")
@click.option("--out", metavar="FILE", help="Write .tsv, .csv, .parquet or .jsonl; - for stdout.")
@download_options
@encoder_override_options
@store_option
@json_option
@quiet_option
def command(
    catalog: str,
    images: tuple[str, ...],
    k: int,
    no_limit: bool,
    radius: float | None,
    orientations: bool,
    html: str | None,
    out: str | None,
    concurrency: int | None,
    allowed_hosts: tuple[str, ...],
    timeout: float | None,
    device: str | None,
    weights: str | None,
    store_url: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Find the items of CATALOG nearest to each IMAGE (a path or URL).

    CATALOG is the name of one in the store, or the folder of a saved model.
    """
    output.check_out(out)
    download = parse_settings(
        DownloadSettings, concurrency=concurrency, allowed_hosts=allowed_hosts, timeout_s=timeout
    )
    if is_saved_model(Path(catalog)):
        model = load_model(catalog, device=device, weights=weights)
    else:
        model = ImageSimilarityModel.create(
            catalog, progress=False, store=store_url, device=device, weights=weights
        )
    asked = pl.DataFrame({"image": images})
    found = model.query(
        asked.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64)),
        label="row",
        feature="image",
        k=None if no_limit else k,
        radius=radius,
        progress=not quiet,
        orientations=orientations,
        download=download,
    )
    names = pl.Series("query_label", [images[row] for row in found["query_label"]], dtype=pl.String)
    found = found.with_columns(names)
    if html is not None:
        named = asked.with_columns(pl.col("image").alias("name"))
        asked = named.unique("name", maintain_order=True)
        model.explore(html, found, asked, label="name", feature="image", download=download)
        output.note(f"gallery written to {html}", quiet=quiet)
    if out is not None:
        output.write_frame(found, out)
    if as_json:
        output.show_json(found)
    elif out is None:
        output.show_frame(found, rows=max(50, k))
    elif out != output.STDOUT:
        click.echo(f"{found.height} rows written to {out}")
    return 0 if found.height else EXIT_PROBLEMS_FOUND
