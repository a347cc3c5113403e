"""Galleries of images: self-contained HTML files, and single images for notebooks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsim_assets.errors import SettingsError

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from imgsim_assets.storage.store import Store

_MAX_IMAGES = 1000


def explore(
    frame: Any,
    path: str | os.PathLike[str] = "gallery.html",
    *,
    feature: str | None = None,
    title: str = "Images",
    store: Store | str | Path | None = None,
) -> Path:
    """Write a self-contained HTML gallery of images with their other columns as captions.

    Args:
        frame: a DataFrame with a column of images, bytes or paths, or any other dataset of
            `ImageSimilarityModel.create` except vectors; at most 1,000 images are shown. Or a
            match table, as `read_table` returns it; at most 200 left items are shown.
        path: the HTML file.
        feature: the column of images; default the only candidate.
        title: the heading of the page.
        store: the store of a catalog or of a match table, as in `ImageSimilarityModel.create`.

    Returns:
        The path of the file.

    Raises:
        SettingsError: when there are no images, or the file cannot be written.
    """
    import polars as pl

    from imgsim_assets.search.dataset import DatasetOptions
    from imgsim_assets.search.gallery_page import numbered_images, write_page
    from imgsim_assets.search.read_dataset import read_dataset
    from imgsim_assets.search.result_gallery import is_match_table, write_matches
    from imgsim_assets.search.thumbnails import Thumbnails
    from imgsim_assets.storage.store import Store

    if is_match_table(frame):
        opened = store if isinstance(store, Store) else Store.open(store)
        return write_matches(path, frame, opened, title=title)
    dataset = read_dataset(frame, DatasetOptions(feature=feature, argument="frame", store=store))
    if dataset.images is None:
        raise SettingsError("frame: these are vectors; give a frame with images")
    if isinstance(frame, pl.DataFrame):
        captions = _captions(frame, dataset.feature)
    else:
        captions = list(map(str, dataset.labels))
    thumbnails = Thumbnails()
    numbers = thumbnails.add(dict(enumerate(dataset.images[:_MAX_IMAGES])))
    images: dict[int, list[tuple[int, int]]] = {}
    for row, thumbnail in numbers.items():
        item = int(dataset.rows.item[row])
        images.setdefault(item, []).append((int(dataset.rows.image[row]), thumbnail))
    rows = [
        {"label": captions[item], "images": numbered_images(numbered), "neighbors": []}
        for item, numbered in images.items()
    ]
    count = len(dataset.rows)
    items = f" of {len(dataset)} items" if dataset.rows.has_numbers else ""
    limit = f", the first {_MAX_IMAGES} shown" if count > _MAX_IMAGES else ""
    return write_page(path, title, f"{count} images{items}{limit}", rows, thumbnails, None)


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


def _captions(frame: pl.DataFrame, feature: str) -> list[str]:
    """The values of the other columns as text."""
    import polars as pl

    columns = [
        name
        for name, dtype in frame.schema.items()
        if name != feature and not dtype.is_nested() and dtype not in (pl.Binary, pl.Object)
    ]
    if not columns and frame.schema[feature] == pl.String:
        columns = [feature]
    return [
        ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row)
        for row in frame.select(columns).iter_rows()
    ] or [str(number) for number in range(frame.height)]
