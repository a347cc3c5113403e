"""Self-contained HTML galleries of images and of query results.

Each image is embedded once as a small JPEG. A long gallery shows its first rows and says so.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsim_assets.errors import SettingsError
from imgsim_assets.search.thumbnails import Thumbnails

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from imgsim_assets.search.image_ref import ImageRef
    from imgsim_assets.search.item_rows import ItemRows
    from imgsim_assets.storage.store import Store


_BINS = 30
_MAX_QUERIES = 200
_MAX_IMAGES = 1000


@dataclass(frozen=True)
class ResultImages:
    """The images of items, by label as text and number."""

    by_label: Mapping[str, Mapping[int, ImageRef | None]]

    @classmethod
    def of(
        cls, labels: pl.Series, rows: ItemRows, images: Sequence[ImageRef | None]
    ) -> ResultImages:
        """The images of the n rows of the items with some labels (m,)."""
        by_label: dict[str, dict[int, ImageRef | None]] = {str(label): {} for label in labels}
        names = map(str, labels.gather(rows.item))
        for name, number, image in zip(names, rows.image.tolist(), images, strict=True):
            by_label[name][number] = image
        return cls(by_label)

    def numbers(self, label: str) -> list[int]:
        """The numbers of an item's images; 0 for an unknown item."""
        return list(self.by_label.get(label, {0: None}))

    def select(self, keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], ImageRef | None]:
        """The images of labels and numbers; None for an unknown one."""
        return {(label, number): self.by_label.get(label, {}).get(number) for label, number in keys}


def write_result(
    path: str | os.PathLike[str],
    result: pl.DataFrame,
    query_images: ResultImages,
    reference_images: ResultImages,
    *,
    title: str,
) -> Path:
    """Write the images of each query beside the nearest image of each of its neighbors.

    At most 200 queries are shown.
    """
    import polars as pl

    missing = {"query_label", "reference_label", "distance"} - set(result.columns)
    if missing:
        raise SettingsError(f"result: it has no column {min(missing)!r}; give the result of query")
    labels = result["query_label"].unique(maintain_order=True)
    shown = result.filter(pl.col("query_label").is_in(labels.head(_MAX_QUERIES).implode()))
    pairs = [_Pair.of(row) for row in shown.iter_rows(named=True)]
    thumbnails = Thumbnails()
    queries = dict.fromkeys(pair.query for pair in pairs)
    query_numbers = thumbnails.add(
        query_images.select((label, n) for label in queries for n in query_images.numbers(label))
    )
    reference_numbers = thumbnails.add(
        reference_images.select(sorted({(pair.reference, pair.reference_image) for pair in pairs}))
    )
    rows: dict[str, dict[str, Any]] = {
        label: {
            "label": label,
            "images": _images([(n, query_numbers[label, n]) for n in query_images.numbers(label)]),
            "neighbors": [],
        }
        for label in queries
    }
    for pair in pairs:
        neighbor = {
            "label": pair.reference,
            "images": [
                {
                    "image": reference_numbers[pair.reference, pair.reference_image],
                    "note": pair.note(query_images, reference_images),
                }
            ],
            "distance": pair.distance,
            "orientation": pair.orientation,
        }
        rows[pair.query]["neighbors"].append(neighbor)
    limit = f", the first {_MAX_QUERIES} of {len(labels)} shown"
    subtitle = f"{len(labels)} queries{limit if len(labels) > _MAX_QUERIES else ''}"
    return _write(path, title, subtitle, list(rows.values()), thumbnails, result["distance"])


@dataclass(frozen=True)
class _Pair:
    """A row of the result of a query."""

    query: str
    query_image: int
    reference: str
    reference_image: int
    distance: float
    orientation: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> _Pair:
        """A row; one without numbers of images is about image 0."""
        return cls(
            str(row["query_label"]),
            row.get("query_image", 0),
            str(row["reference_label"]),
            row.get("reference_image", 0),
            row["distance"],
            row.get("orientation"),
        )

    def note(self, queries: ResultImages, references: ResultImages) -> str:
        """The numbers of the nearest images, where an item has several."""
        notes = []
        if len(references.numbers(self.reference)) > 1:
            notes.append(f"image {self.reference_image}")
        if len(queries.numbers(self.query)) > 1:
            notes.append(f"nearest to image {self.query_image}")
        return ", ".join(notes)


def _images(numbered: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The images (number, thumbnail) of an item as the page shows them; numbered if several."""
    several = len(numbered) > 1
    return [
        {"image": thumbnail, "note": f"image {number}" if several else ""}
        for number, thumbnail in numbered
    ]


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
            `ImageSimilarityModel.create` except vectors. At most 1,000 images are shown.
        path: the HTML file.
        feature: the column of images; default the only candidate.
        title: the heading of the page.
        store: the store of a catalog, as in `ImageSimilarityModel.create`.

    Returns:
        The path of the file.

    Raises:
        SettingsError: when there are no images, or the file cannot be written.
    """
    import polars as pl

    from imgsim_assets.search.dataset import DatasetOptions
    from imgsim_assets.search.read_dataset import read_dataset

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
        {"label": captions[item], "images": _images(numbered), "neighbors": []}
        for item, numbered in images.items()
    ]
    count = len(dataset.rows)
    items = f" of {len(dataset)} items" if dataset.rows.has_numbers else ""
    limit = f", the first {_MAX_IMAGES} shown" if count > _MAX_IMAGES else ""
    return _write(path, title, f"{count} images{items}{limit}", rows, thumbnails, None)


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


def _write(
    path: str | os.PathLike[str],
    title: str,
    subtitle: str,
    rows: Sequence[Mapping[str, Any]],
    thumbnails: Thumbnails,
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
