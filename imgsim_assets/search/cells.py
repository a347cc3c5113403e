"""The images or vectors in the cells of a dataset: one in each cell, or a list of several."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.catalog.image_cells import find_separator, image_lists, several
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.search.dataset import DatasetOptions
from imgsim_assets.search.image_files import local_path
from imgsim_assets.search.image_ref import ImageRef, failed_image
from imgsim_assets.search.item_rows import ItemRows
from imgsim_assets.search.url_images import fetch_urls, is_url

# One PIL image may be in several rows, and Pillow reads its file from one thread only.
_PIL_LOCK = threading.Lock()


def is_null(value: Any) -> bool:
    """Whether a value stands for no value: None or a float NaN."""
    return value is None or (isinstance(value, float) and value != value)


def is_list(value: Any) -> bool:
    """Whether a cell holds a list of values, not one value."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "OU" or (value.ndim == 2 and value.dtype.kind == "f")
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def cells_of(values: pl.Series) -> list[Any]:
    """The cells of a column; text that a catalog reads as several images becomes a list."""
    if values.dtype != pl.String:
        return values.to_list()
    texts = values.to_list()
    # The name of a file may have a comma.
    is_several = [
        holds_several and not local_path(text).exists()
        for text, holds_several in zip(texts, several(values).fill_null(value=False), strict=True)
    ]
    if not any(is_several):
        return texts
    chosen = values.filter(pl.Series(is_several))
    lists = iter(image_lists(chosen, find_separator(chosen)).to_list())
    return [next(lists) if own else text for own, text in zip(is_several, texts, strict=True)]


def read_images(
    cells: Sequence[Any], labels: Sequence[Any], options: DatasetOptions
) -> tuple[ItemRows, list[ImageRef]]:
    """The images of every cell; URLs are fetched now.

    Empty entries of a list, and repeats of a path or URL in it, are passed over before the images
    are numbered. A cell without an image has one row that fails.
    """
    lists = [_entries(cell) for cell in cells]
    values = [value for entries in lists for value in entries]
    rows = ItemRows.of_counts([len(entries) for entries in lists])
    download = options.download or DownloadSettings()
    urls = [value for value in values if isinstance(value, str) and is_url(value)]
    by_url = fetch_urls(urls, download, log=options.log)
    names = _row_names(cells, labels, rows, options)
    images = [
        _image(value, name, by_url, download.max_bytes)
        for value, name in zip(values, names, strict=True)
    ]
    return rows, images


def _entries(cell: Any) -> list[Any]:
    if not is_list(cell):
        return [cell]
    entries = []
    seen = set()
    for value in cell:
        is_text = isinstance(value, str | os.PathLike)
        text = os.fspath(value).strip() if is_text else None
        if is_null(value) or text == "" or text in seen:
            continue
        entries.append(value)
        if text is not None:
            seen.add(text)
    return entries or [None]


def _row_names(
    cells: Sequence[Any], labels: Sequence[Any], rows: ItemRows, options: DatasetOptions
) -> list[str]:
    """What messages call each row."""
    names = []
    for item, image in zip(rows.item.tolist(), rows.image.tolist(), strict=True):
        number = f" image {image}" if is_list(cells[item]) else ""
        names.append(f"{options.argument} row {item}{number} (label {labels[item]})")
    return names


def _image(value: Any, row_name: str, by_url: Mapping[str, ImageRef], max_bytes: int) -> ImageRef:
    if value is None:
        return failed_image(row_name, "no_image", "the value is null")
    if isinstance(value, str) and is_url(value):
        return by_url[value]
    if isinstance(value, str | os.PathLike):
        path = local_path(value)
        return ImageRef(str(value), partial(_read_file, path, max_bytes))
    if isinstance(value, bytes):
        return ImageRef(row_name, partial(bytes, value))
    if isinstance(value, Image.Image):
        return ImageRef(getattr(value, "filename", "") or row_name, partial(_load_pil, value))
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
        return ImageRef(row_name, partial(Image.fromarray, value))
    raise SettingsError(
        f"{row_name} is {type(value).__name__}; give a PIL image, bytes, a path, a URL, or a "
        "uint8 array of shape (height, width, 3)"
    )


def _load_pil(image: Image.Image) -> Image.Image:
    with _PIL_LOCK:
        image.load()
    return image


def _read_file(path: Path, max_bytes: int) -> bytes:
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise OSError(f"{path} is not a file")
    size = path.stat().st_size
    if size > max_bytes:
        raise OSError(f"{path} has {size} bytes, more than {max_bytes}")
    return path.read_bytes()


def read_vectors(
    values: pl.Series, options: DatasetOptions
) -> tuple[ItemRows, NDArray[np.float32], NDArray[np.bool_]]:
    """The vectors of a column of vectors or of lists of vectors: rows, (n, d), has_vector (n,).

    A null in a list keeps its number, so that the vectors of images have the images' numbers.
    """
    has_lists = isinstance(values.dtype, pl.List | pl.Array) and not values.dtype.inner.is_numeric()
    cells = values.to_list()
    lists = [cell or [None] for cell in cells] if has_lists else [[cell] for cell in cells]
    vectors = [vector for entries in lists for vector in entries]
    rows = ItemRows.of_counts([len(entries) for entries in lists])
    dimensions = {len(vector) for vector in vectors if vector is not None}
    if len(dimensions) != 1 or 0 in dimensions:
        raise SettingsError(
            f"{options.argument}: the vectors of column {values.name!r} have "
            f"{' and '.join(map(str, sorted(dimensions))) or 'no'} numbers; all must have the same"
        )
    zeros = [0.0] * dimensions.pop()
    dense = [zeros if row is None else [np.nan if n is None else n for n in row] for row in vectors]
    array = np.array(dense, dtype=np.float32)
    not_finite = rows.item[~np.isfinite(array).all(axis=1)]
    if len(not_finite):
        raise SettingsError(
            f"{options.argument}: the vector of row {not_finite[0]} is not finite "
            f"({len(not_finite)} rows are not); omit such rows"
        )
    return rows, array, np.array([vector is not None for vector in vectors])
