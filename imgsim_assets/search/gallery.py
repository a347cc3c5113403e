"""Self-contained HTML galleries of images and of query results.

Each image is embedded once as a small JPEG. A long gallery shows its first rows and says so.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from imgsim_assets.errors import SettingsError

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from imgsim_assets.search.image_ref import ImageRef


_THUMBNAIL_PX = 160
_JPEG_QUALITY = 78
_BINS = 30
_THREADS = 4
_MAX_QUERIES = 200
_MAX_IMAGES = 1000

Images: TypeAlias = "Mapping[str, ImageRef | None]"


def write_result(
    path: str | os.PathLike[str],
    result: pl.DataFrame,
    query_images: Images,
    reference_images: Images,
    *,
    title: str,
) -> Path:
    """Write the query images of a result beside their neighbors; at most 200 queries."""
    import polars as pl

    missing = {"query_label", "reference_label", "distance"} - set(result.columns)
    if missing:
        raise SettingsError(f"result: it has no column {min(missing)!r}; give the result of query")
    labels = result["query_label"].unique(maintain_order=True)
    shown = result.filter(pl.col("query_label").is_in(labels.head(_MAX_QUERIES).implode()))
    thumbnails = _Thumbnails()
    query_numbers = thumbnails.add(_select(query_images, shown["query_label"]))
    reference_numbers = thumbnails.add(_select(reference_images, shown["reference_label"]))
    rows = [
        {
            "label": str(label),
            "image": query_numbers[str(label)],
            "neighbors": [
                {
                    "label": str(pair["reference_label"]),
                    "image": reference_numbers[str(pair["reference_label"])],
                    "distance": pair["distance"],
                    "orientation": pair.get("orientation"),
                }
                for pair in pairs.iter_rows(named=True)
            ],
        }
        for (label,), pairs in shown.partition_by(
            "query_label", as_dict=True, maintain_order=True
        ).items()
    ]
    limit = f", the first {_MAX_QUERIES} of {len(labels)} shown"
    subtitle = f"{len(labels)} queries{limit if len(labels) > _MAX_QUERIES else ''}"
    return _write(path, title, subtitle, rows, thumbnails, result["distance"])


def images_by_label(labels: pl.Series, images: Sequence[ImageRef | None]) -> Images:
    """Images by label as text."""
    return dict(zip(map(str, labels.to_list()), images, strict=True))


def _select(images: Images, labels: pl.Series) -> Images:
    return {label: images.get(label) for label in sorted({str(label) for label in labels})}


def explore(
    frame: Any,
    path: str | os.PathLike[str] = "gallery.html",
    *,
    feature: str | None = None,
    title: str = "Images",
) -> Path:
    """Write a self-contained HTML gallery of images with their other columns as captions.

    Args:
        frame: a DataFrame with a column of images, bytes or paths, or any other dataset of
            `ImageSimilarityModel.create` except vectors. At most 1,000 images are shown.
        path: the HTML file.
        feature: the column of images; default the only candidate.
        title: the heading of the page.

    Returns:
        The path of the file.

    Raises:
        SettingsError: when there are no images, or the file cannot be written.
    """
    import polars as pl

    from imgsim_assets.search.dataset import DatasetOptions, read_dataset

    dataset = read_dataset(frame, DatasetOptions(feature=feature, argument="frame"))
    if dataset.images is None:
        raise SettingsError("frame: these are vectors; give a frame with images")
    if isinstance(frame, pl.DataFrame):
        captions = _captions(frame, dataset.feature)
    else:
        captions = list(map(str, dataset.labels))
    images = dataset.images[:_MAX_IMAGES]
    thumbnails = _Thumbnails()
    numbers = thumbnails.add({str(number): image for number, image in enumerate(images)})
    rows = [
        {"label": caption, "image": number, "neighbors": []}
        for caption, number in zip(captions, numbers.values(), strict=False)
    ]
    limit = f", the first {_MAX_IMAGES} shown" if len(dataset) > _MAX_IMAGES else ""
    return _write(path, title, f"{len(dataset)} images{limit}", rows, thumbnails, None)


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
    from imgsim_assets.search.dataset import DatasetOptions, read_dataset

    dataset = read_dataset(image, DatasetOptions(argument="image"))
    if dataset.images is None or len(dataset) != 1:
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


class _Thumbnails:
    """Small JPEGs as data URLs, each one once."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._numbers: dict[str, int] = {}

    def add(self, images: Images) -> dict[str, int]:
        """The number of each image's thumbnail, -1 for an image that cannot be read."""
        with ThreadPoolExecutor(_THREADS, "read") as pool:
            urls = pool.map(_thumbnail, images.values())
            return {name: self._number(url) for name, url in zip(images, urls, strict=True)}

    def _number(self, url: str | None) -> int:
        if url is None:
            return -1
        if url not in self._numbers:
            self._numbers[url] = len(self.urls)
            self.urls.append(url)
        return self._numbers[url]


def _thumbnail(ref: ImageRef | None) -> str | None:
    from imgsim_assets.images.errors import ImageError

    if ref is None:
        return None
    try:
        image, _ = ref.read(_THUMBNAIL_PX)
    except ImageError:
        return None
    thumbnail = image.copy()
    thumbnail.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    body = io.BytesIO()
    thumbnail.save(body, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(body.getvalue()).decode()


def _write(
    path: str | os.PathLike[str],
    title: str,
    subtitle: str,
    rows: Sequence[Mapping[str, Any]],
    thumbnails: _Thumbnails,
    distances: pl.Series | None,
) -> Path:
    import numpy as np

    from imgsim_assets.images.plot import histogram

    max_distance, chart = 0.0, ""
    if distances is not None and len(distances):
        values = distances.to_numpy()
        max_distance = float(values.max())
        counts, edges = np.histogram(values, bins=_BINS, range=(0.0, max_distance or 1.0))
        chart = histogram(
            counts.tolist(), edges.tolist(), title=f"distance of {len(values):,} pairs"
        )
    # A label may hold the end of a script element, or the start of a comment in it.
    data = json.dumps({"rows": rows, "images": thumbnails.urls}).replace("<", "\\u003c")
    placeholders = {
        "TITLE": escape(title),
        "SUBTITLE": escape(subtitle),
        "CHART": chart,
        "MAX_DISTANCE": f"{max_distance * 1.000001:.6f}",
        "CONTROLS": "" if distances is not None else "hidden",
        "DATA": data,
    }
    template = files("imgsim_assets.search").joinpath("gallery.html").read_text("utf-8")
    # In one pass: an inserted value may look like a placeholder.
    page = re.sub("@([A-Z_]+)@", lambda match: placeholders[match[1]], template)
    target = Path(path)
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"path: {target} cannot be written: {error.strerror}") from error
    return target
