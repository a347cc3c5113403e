"""`imgsim query`: the items of a catalog that are most similar to given images."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import click
import polars as pl

from imgsim_assets.cli import options, output
from imgsim_assets.cli.main import EXIT_PROBLEMS_FOUND
from imgsim_assets.cli.option_names import in_shell_words
from imgsim_assets.cli.terminal import echo
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import SettingsError, SourceError
from imgsim_assets.search.load_model import load_model
from imgsim_assets.search.model import ImageSimilarityModel
from imgsim_assets.search.neighbors import Compare
from imgsim_assets.search.saved_model import is_saved_model
from imgsim_assets.storage.store import Store
from imgsim_assets.text import counted

_ONE_ITEM = "item"


@click.command(
    epilog="""\b
Examples:
  imgsim query products photo.jpg -k 10
  imgsim query products photos/*.jpg --orientations --out neighbors.tsv
  imgsim query products photos/*.jpg --html neighbors.html
  imgsim query products sku123/*.jpg --one-item
  imgsim query products --text "red shoe"
  imgsim query shelf.model https://example.com/photo.jpg --radius 0.6
"""
)
@click.argument("catalog")
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="TEXT",
    help="Search by a text instead of an image, with an encoder that has a text tower.",
)
@click.option(
    "-k", "k", type=click.IntRange(min=1), default=5, show_default=True, help="Items per query."
)
@click.option(
    "--one-item", is_flag=True, help="The IMAGEs are of one item, which is found by any of them."
)
@click.option(
    "--compare",
    type=click.Choice(["any", "first", "mean_best"]),
    default="any",
    show_default=True,
    help="Which images of items count; mean_best needs --radius.",
)
@click.option("--all", "no_limit", is_flag=True, help="Return every item instead of k.")
@click.option("--radius", type=float, help="Maximum distance, inclusive.")
@click.option("--orientations", is_flag=True, help="Also try each image rotated and mirrored.")
@options.html_option
@options.out_option
@options.download_options
@options.encoder_override_options
@options.store_option
@options.json_option
@options.quiet_option
def command(
    catalog: str,
    images: tuple[str, ...],
    texts: tuple[str, ...],
    k: int,
    one_item: bool,
    compare: Compare,
    no_limit: bool,
    radius: float | None,
    orientations: bool,
    html: str | None,
    out: str | None,
    download: DownloadSettings,
    device: str | None,
    weights: str | None,
    factory: str | None,
    store: Store,
    as_json: bool,
    quiet: bool,
) -> int:
    """Find the items of CATALOG nearest to each IMAGE (a path or URL), or to texts.

    CATALOG is the name of a catalog in the store, or the folder of a saved model. Several URLs or
    paths in one IMAGE, as in a cell of a list, are images of one item.
    """
    if bool(images) == bool(texts) or (texts and (orientations or html or one_item)):
        raise click.UsageError(
            "give images, or texts with --text; --orientations, --one-item and --html need images"
        )
    with _in_shell_words("CATALOG"):
        if is_saved_model(Path(catalog)):
            model = load_model(catalog, device=device, weights=weights, factory=factory)
        else:
            model = ImageSimilarityModel.create(
                catalog,
                progress=False,
                store=store,
                device=device,
                weights=weights,
                factory=factory,
            )
    if texts:
        neighbors = model.query(
            text=texts, k=None if no_limit else k, radius=radius, compare=compare
        )
        return _show(neighbors, out, k, as_json=as_json)
    names = [_ONE_ITEM if one_item else name for name in images]
    cells = [list(images)] if one_item else list(images)
    queries = pl.DataFrame({"row": range(len(cells)), "image": pl.Series(cells)})
    with _in_shell_words("IMAGE"):
        neighbors = model.query(
            queries,
            label="row",
            feature="image",
            k=None if no_limit else k,
            radius=radius,
            progress=not quiet,
            orientations=orientations,
            compare=compare,
            download=download,
        )
    labels = pl.Series("query_label", [names[row] for row in neighbors["query_label"]], pl.String)
    neighbors = neighbors.with_columns(labels)
    if html is not None:
        labeled = queries.select(pl.Series("name", names[: len(cells)]), "image")
        unique = labeled.unique("name", maintain_order=True)
        with _in_shell_words("IMAGE"):
            model.explore(html, neighbors, unique, label="name", feature="image", download=download)
        if not quiet:
            output.log_to_stderr(f"gallery written to {html}")
    return _show(neighbors, out, k, as_json=as_json)


@contextlib.contextmanager
def _in_shell_words(argument: str) -> Iterator[None]:
    """Name the arguments of this command in errors, and print warnings without the line of code.

    `argument` is what the model takes as its dataset.
    """
    words = {"dataset": argument, "queries": argument, "store": "--store"}
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        except (SettingsError, SourceError) as error:
            raise type(error)(in_shell_words(str(error), words)) from error
        finally:
            for warning in caught:
                echo(f"imgsim: {in_shell_words(str(warning.message), words)}", err=True)


def _show(neighbors: pl.DataFrame, out: str | None, k: int, *, as_json: bool) -> int:
    """Write or print the result; the exit code."""
    if out is not None:
        output.write_frame(neighbors, out)
    if as_json:
        output.show_json(neighbors)
    elif out is None:
        output.show_frame(neighbors, max_rows=max(50, k))
    elif out != options.STDOUT:
        echo(f"{counted(neighbors.height, 'row')} written to {out}")
    return 0 if neighbors.height else EXIT_PROBLEMS_FOUND
