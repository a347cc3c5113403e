"""Galleries of images: self-contained HTML files, and single images for notebooks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsim_assets.errors import SettingsError
from imgsim_assets.text import counted

if TYPE_CHECKING:
    from PIL import Image

    from imgsim_assets.gallery.document import Gallery
    from imgsim_assets.gallery.file import GalleryFile
    from imgsim_assets.search.image_ref import ImageRef
    from imgsim_assets.storage.store import Store

_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]*(/[a-z0-9][a-z0-9_.-]*)?")


def explore(
    dataset: Any,
    path: str | os.PathLike[str] = "gallery.html",
    *,
    label: str | None = None,
    feature: str | None = None,
    title: str | None = None,
    limit: int | None = 20_000,
    store: Store | str | Path | None = None,
) -> GalleryFile:
    """Write an HTML gallery of images, or of results beside their images.

    The page works offline. With more than 2,000 pairs, or 4,000 images, the images are in a folder
    beside it: `gallery_files` for `gallery.html`. A notebook shows the first rows of the returned
    file.

    Args:
        dataset: the name of a catalog, or of a table of the store, such as "products",
            "matches/products__suppliers", "products/similarity_graph" or
            "products/duplicate_groups"; rows of such a table as `read_table` returns them; or
            any other dataset of `ImageSimilarityModel.create` except vectors.
        path: the HTML file.
        label: the column of a dataset that names its images; default their row numbers.
        feature: the column of images of a dataset; default the only candidate.
        title: the heading of the page.
        limit: the maximum number of rows that are shown, None for all.
        store: the store of the images of a catalog or table; default as of `read_table`.

    Returns:
        The file. A column of a match table that begins with `left_` or `right_` is shown with its
        item; the name of a table instead of its rows shows all columns of its items.

    Raises:
        SettingsError: when there are no images, or the file cannot be written.
        StoreError: when the store has no such table.
    """
    from imgsim_assets.gallery.file import write_gallery_file
    from imgsim_assets.search.graph import SimilarityGraph
    from imgsim_assets.search.model import ImageSimilarityModel

    if limit is not None and limit < 1:
        raise SettingsError(f"limit is {limit}; give a number of rows from 1, or None for all")
    if isinstance(dataset, ImageSimilarityModel | SimilarityGraph):
        raise SettingsError("dataset: a model shows its images and graph by model.explore(path)")
    gallery = _stored(dataset, feature, title, store)
    if gallery is None:
        gallery = _of_dataset(dataset, label, feature, title, store)
    return write_gallery_file(gallery if limit is None else gallery.head(limit), path)


def show(image: Any) -> Image.Image:
    """Load one image upright and in RGB; a notebook displays the returned image.

    Args:
        image: a path, URL, bytes, a PIL image or a uint8 array (height, width, 3).

    Returns:
        A PIL image.

    Raises:
        SettingsError: when it is not one image, or cannot be read.

    Example:
        >>> import imgsim_assets
        >>> from PIL import Image
        >>> imgsim_assets.show(Image.linear_gradient("L")).mode
        'RGB'
    """
    from imgsim_assets.images.errors import ImageError
    from imgsim_assets.search.dataset import DatasetOptions
    from imgsim_assets.search.read_dataset import read_dataset

    dataset = read_dataset(image, DatasetOptions(argument="image"))
    if dataset.images is None or len(dataset.rows) != 1:
        raise SettingsError("image: give one image, as a path, URL, bytes or PIL image")
    try:
        return dataset.images[0].read()[0]
    except ImageError as error:
        raise SettingsError(f"image: it cannot be shown: {error}") from error


def _stored(
    dataset: Any, feature: str | None, title: str | None, store: Store | str | Path | None
) -> Gallery | None:
    """The gallery of a table or catalog of the store; None for another dataset."""
    import polars as pl

    from imgsim_assets.gallery.tables import gallery_of_frame
    from imgsim_assets.storage.reader import open_store

    if isinstance(dataset, pl.DataFrame | pl.LazyFrame) and feature is None:
        return gallery_of_frame(dataset, open_store(store), title=title or "Images")
    if isinstance(dataset, str) and _TABLE_NAME.fullmatch(dataset):
        return _named(dataset, title, open_store(store))
    return None


def _named(name: str, title: str | None, store: Store) -> Gallery | None:
    from imgsim_assets.gallery.tables import gallery_of_catalog, gallery_of_table
    from imgsim_assets.storage.reader import resolve_version

    if "/" not in name:
        return gallery_of_catalog(store, name, title=title)
    if store.table(name).latest() is None and Path(name).exists():
        return None
    table, commit = resolve_version(store, name)
    gallery = gallery_of_table(store, table, commit, title=title)
    if gallery is None:
        raise SettingsError(
            f"dataset: table {name} names no images; give a catalog, a match table, a similarity "
            "graph or duplicate groups"
        )
    return gallery


def _require_an_image(images: Sequence[ImageRef]) -> None:
    """Raise SettingsError if not one of the images can be read, as for a mistyped name."""
    from imgsim_assets.images.errors import ImageError

    first = None
    for image in images:
        try:
            image.read()
        except ImageError as error:
            first = first or f"{image.name}: {error}"
        else:
            return
    raise SettingsError(f"dataset: none of {counted(len(images), 'image')} can be read ({first})")


def _of_dataset(
    dataset: Any,
    label: str | None,
    feature: str | None,
    title: str | None,
    store: Store | str | Path | None,
) -> Gallery:
    from imgsim_assets.gallery.items import item_gallery
    from imgsim_assets.search.dataset import DatasetOptions
    from imgsim_assets.search.read_dataset import read_dataset
    from imgsim_assets.search.result_gallery import item_details, item_images

    options = DatasetOptions(label, feature, argument="dataset", store=store)
    items = read_dataset(dataset, options)
    if items.images is None:
        raise SettingsError("dataset: these are vectors; give a dataset with images")
    _require_an_image(items.images)
    rows, images = item_images(items)
    details = item_details(dataset, items, label)
    return item_gallery(rows, rows["key"].to_list(), images, details, title=title or "Images")
