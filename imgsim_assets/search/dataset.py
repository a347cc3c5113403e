"""What a person hands over as a dataset, brought into one form: labels, images or vectors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import open_source
from imgsim_assets.catalog.source_files import SourceFile
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.progress import Log, silent
from imgsim_assets.search.image_ref import ImageRef, missing
from imgsim_assets.search.url_images import fetch_urls

# Columns of text that are taken for images when none is named, the likeliest first.
_IMAGE_COLUMNS = ("image", "path", "url", "image_url", "file", "image")
# The same image may stand in several rows, and Pillow reads a file from one thread only.
_LOADING = threading.Lock()


@dataclass(frozen=True)
class DatasetOptions:
    """How a dataset is read: the argument messages name, and the manners of the downloader."""

    argument: str = "dataset"
    label: str | None = None
    feature: str | None = None
    download: DownloadSettings = field(default_factory=DownloadSettings)
    log: Log = silent


@dataclass(frozen=True)
class Dataset:
    """Rows with labels (Int64 or String), and either images or vectors.

    `vectors` is (n, d) float32, and `blank` marks (n,) rows without one. `label` and `feature`
    are the columns they came from, None where there was none.
    """

    labels: pl.Series
    label: str | None
    feature: str | None
    images: Sequence[ImageRef] | None = None
    vectors: NDArray[np.float32] | None = None
    blank: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels)


def read_dataset(dataset: Any, reading: DatasetOptions) -> Dataset:
    """A frame, folder, glob, list, single image or array as a Dataset; nothing is decoded.

    Raises SettingsError, naming the argument and the mend, for anything that is none of
    these, for an empty one, and for columns that are missing or of a wrong type.
    """
    frame, feature = _frame(dataset, reading)
    if not frame.height:
        raise SettingsError(
            f"{reading.argument} is empty; give at least one row with an image or a vector"
        )
    labels = _labels(frame, reading)
    values = frame[feature]
    if _is_vectors(values.dtype):
        vectors, blank = _vectors(values, reading)
        return Dataset(labels, reading.label, feature, vectors=vectors, blank=blank)
    images = images_of(values.to_list(), labels.to_list(), reading)
    return Dataset(labels, reading.label, feature, images=images)


# ---- frames -------------------------------------------------------------------------


def _frame(dataset: Any, reading: DatasetOptions) -> tuple[pl.DataFrame, str]:
    """A dataset as a frame, and the column that holds its images or vectors."""
    if isinstance(dataset, pl.LazyFrame):
        dataset = dataset.collect()
    if isinstance(dataset, pl.DataFrame):
        return dataset, _feature(dataset, reading)
    if hasattr(dataset, "columns") and hasattr(dataset, "iloc"):  # pandas, which is not needed
        frame = pl.DataFrame([_column(str(name), list(dataset[name])) for name in dataset.columns])
        return frame, _feature(frame, reading)
    if isinstance(dataset, str | os.PathLike) and _is_collection(str(dataset)):
        return pl.DataFrame({"path": list(_files(str(dataset), reading))}), "path"
    name = reading.feature or "image"
    if isinstance(dataset, pl.Series):
        return dataset.alias(name).to_frame(), name
    values = _values(dataset, reading)
    return pl.DataFrame([_column(name, values)]), name


def _values(dataset: Any, reading: DatasetOptions) -> list[Any]:
    if isinstance(dataset, str | os.PathLike | bytes | Image.Image):
        return [dataset]
    if isinstance(dataset, np.ndarray):
        # An array of bytes is an image, one of other numbers is a vector or rows of them.
        is_one = dataset.dtype == np.uint8 or dataset.ndim == 1
        return [dataset] if is_one else list(dataset)
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        if dataset and all(isinstance(value, int | float) for value in dataset):
            return [np.asarray(dataset, dtype=np.float32)]
        return list(dataset)
    raise SettingsError(
        f"{reading.argument} is {type(dataset).__name__}; give a frame of polars or pandas, a "
        "folder, a list of images, paths, URLs or vectors, or a single one"
    )


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    """Plain Python values as a column of the kind they are."""
    present = [value for value in values if not _is_null(value)]
    plain = [None if _is_null(value) else value for value in values]
    if present and all(_is_vector(value) for value in present):
        rows = [None if row is None else np.asarray(row, np.float32).tolist() for row in plain]
        return pl.Series(name, rows, dtype=pl.List(pl.Float32))
    if all(isinstance(value, str | os.PathLike) for value in present):
        texts = [None if value is None else os.fspath(value) for value in plain]
        return pl.Series(name, texts, dtype=pl.String)
    if all(isinstance(value, bytes) for value in present):
        return pl.Series(name, plain, dtype=pl.Binary)
    if all(isinstance(value, int | np.integer) and value is not True for value in present):
        return pl.Series(name, plain, dtype=pl.Int64)
    if all(isinstance(value, bool | int | float | np.floating) for value in present):
        return pl.Series(name, plain, strict=False)
    return pl.Series(name, plain, dtype=pl.Object)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _is_vector(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype != np.uint8
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_list and all(isinstance(part, int | float | np.number) for part in value)


def _feature(frame: pl.DataFrame, reading: DatasetOptions) -> str:
    """The column of images or vectors: the one named, else the only one there can be."""
    if reading.feature is not None:
        _check_column(frame, reading.feature, "feature", reading)
        dtype = frame.schema[reading.feature]
        if not (_is_vectors(dtype) or _is_images(dtype) or dtype == pl.String):
            raise SettingsError(
                f"feature: column {reading.feature!r} holds {dtype}; it must hold images, "
                "bytes, paths, URLs or vectors"
            )
        return reading.feature
    columns = {name: dtype for name, dtype in frame.schema.items() if name != reading.label}
    for is_kind in (_is_vectors, _is_images):
        found = [name for name, dtype in columns.items() if is_kind(dtype)]
        if len(found) == 1:
            return found[0]
        if found:
            raise SettingsError(f"feature: {_some(found)} could be meant; name one of them")
    texts = [name for name, dtype in columns.items() if dtype == pl.String]
    named = [name for name in _IMAGE_COLUMNS if name in texts]
    if named or len(texts) == 1:
        return (named or texts)[0]
    raise SettingsError(
        f"feature: no column of {reading.argument} is clearly the images or vectors; name one "
        f"of {_some(frame.columns) or 'its columns'}"
    )


def _is_vectors(dtype: pl.DataType) -> bool:
    inner = getattr(dtype, "inner", None)
    return isinstance(dtype, pl.Array | pl.List) and inner is not None and inner.is_numeric()


def _is_images(dtype: pl.DataType) -> bool:
    return dtype in (pl.Binary, pl.Object)


def _check_column(frame: pl.DataFrame, column: str, key: str, reading: DatasetOptions) -> None:
    if column not in frame.columns:
        raise SettingsError(
            f"{key}: {reading.argument} has no column {column!r}; it has {_some(frame.columns)}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _labels(frame: pl.DataFrame, reading: DatasetOptions) -> pl.Series:
    """The label column as Int64 or String, or row numbers from 0."""
    if reading.label is None:
        return pl.Series("label", range(frame.height), dtype=pl.Int64)
    _check_column(frame, reading.label, "label", reading)
    labels = frame[reading.label].alias("label")
    if not (labels.dtype.is_integer() or labels.dtype == pl.String):
        raise SettingsError(
            f"label: column {reading.label!r} holds {labels.dtype}; labels are whole numbers or "
            "text: cast it to one of these"
        )
    if labels.null_count():
        row = labels.is_null().arg_max()
        raise SettingsError(f"label: column {reading.label!r} is null in row {row}; fill it in")
    return labels.cast(pl.Int64) if labels.dtype.is_integer() else labels


def _vectors(
    values: pl.Series, reading: DatasetOptions
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rows = values.to_list()
    widths = {len(row) for row in rows if row is not None}
    if len(widths) != 1 or 0 in widths:
        raise SettingsError(
            f"{reading.argument}: the vectors of column {values.name!r} have "
            f"{' and '.join(map(str, sorted(widths))) or 'no'} numbers; all must have the same"
        )
    width = widths.pop()
    blank = np.array([row is None for row in rows])
    empty = [0.0] * width
    dense = [empty if row is None else [np.nan if n is None else n for n in row] for row in rows]
    vectors = np.array(dense, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise SettingsError(
            f"{reading.argument}: the vector of row {bad[0]} is not finite ({len(bad)} rows are "
            "not); leave such rows out"
        )
    return vectors, blank


# ---- images -----------------------------------------------------------------------


def images_of(
    values: Sequence[Any], labels: Sequence[Any], reading: DatasetOptions
) -> list[ImageRef]:
    """Images, bytes, pixel arrays, paths and URLs as images; URLs are fetched at once."""
    urls = [value for value in values if isinstance(value, str) and is_url(value)]
    by_url = fetch_urls(urls, reading.download, log=reading.log)
    return [
        _image(value, f"{reading.argument} row {row} (label {label})", by_url, reading)
        for row, (value, label) in enumerate(zip(values, labels, strict=True))
    ]


def _image(
    value: Any, place: str, by_url: Mapping[str, ImageRef], reading: DatasetOptions
) -> ImageRef:
    if value is None:
        return missing(place)
    if isinstance(value, str) and is_url(value):
        return by_url[value]
    if isinstance(value, str | os.PathLike):
        path = Path(value).expanduser()
        return ImageRef(str(value), partial(_file_bytes, path, reading.download.max_bytes))
    if isinstance(value, bytes):
        return ImageRef(place, partial(bytes, value))
    if isinstance(value, Image.Image):
        return ImageRef(getattr(value, "filename", "") or place, partial(_loaded, value))
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
        return ImageRef(place, partial(Image.fromarray, value))
    raise SettingsError(
        f"{place} is {type(value).__name__}; give a PIL image, bytes, a path, a URL, or an array "
        "of bytes (height, width, 3)"
    )


def _loaded(image: Image.Image) -> Image.Image:
    """A PIL image with its pixels, which it may read from its file only now."""
    with _LOADING:
        image.load()
    return image


def is_url(text: str) -> bool:
    """Whether text names something on the web rather than a file."""
    return text.lower().startswith(("http://", "https://"))


def _file_bytes(path: Path, most: int) -> bytes:
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise OSError(f"{path} is no file")
    size = path.stat().st_size
    if size > most:
        raise OSError(f"{path} has {size} bytes, more than {most}")
    return path.read_bytes()


# ---- folders ------------------------------------------------------------------------


def _is_collection(text: str) -> bool:
    return not is_url(text) and (Path(text).expanduser().is_dir() or any(c in text for c in "*?["))


def _files(location: str, reading: DatasetOptions) -> list[str]:
    return [path for path, _ in list_image_files(location, reading.argument)]


def list_image_files(
    location: str, argument: str, *, recursive: bool = True
) -> list[tuple[str, Callable[[], bytes]]]:
    """The images of a folder or glob, local or behind fsspec, sorted by path: path and read.

    Files without the suffix of an image and hidden ones are passed over. Raises SourceError
    when there is no such folder, and SettingsError when it holds no image.
    """
    source = open_source(SourceSettings(path=location, format="images"), Path.cwd())
    found = [file for file in source.files if recursive or "/" not in file.name]
    if not found:
        raise SettingsError(f"{argument}: {location} holds no images; name a folder that does")
    return [(file.path, partial(_read, source, file)) for file in found]


def _read(source: Any, file: SourceFile) -> bytes:
    with source.fs.open(file.path, "rb") as opened:
        data: bytes = opened.read()
        return data
