"""Reads any accepted dataset into one form: labels, and either images or vectors."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from imgsim_assets.catalog.columns import image_column
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import Source, open_source
from imgsim_assets.catalog.source_files import SourceFile
from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.errors import SettingsError
from imgsim_assets.progress import Log, silent
from imgsim_assets.search.image_ref import ImageRef, failed_image
from imgsim_assets.search.url_images import fetch_urls, is_url
from imgsim_assets.text import printable

# Names of text columns that hold images, where the cells do not tell.
_IMAGE_COLUMNS = ("image", "path", "url", "image_url", "file", "picture")
_SAMPLE_ROWS = 10_000
# One PIL image may be in several rows, and Pillow reads its file from one thread only.
_PIL_LOCK = threading.Lock()


def _log_to_stderr(message: str) -> None:
    print(printable(message), file=sys.stderr, flush=True)


@dataclass(frozen=True)
class DatasetOptions:
    """How a dataset is read and encoded.

    Attributes:
        label: the column of labels, None for row numbers.
        feature: the column of images or vectors, None for the only candidate.
        download: the settings for fetching URLs, None for the defaults.
        progress: whether progress is printed to stderr.
        batch_size: images per forward pass, None for the default of the device.
        ignore_failure: whether an image that cannot be used is a warning, not an error.
        argument: the name of the dataset's argument, for messages.
    """

    label: str | None = None
    feature: str | None = None
    download: DownloadSettings | None = None
    progress: bool = False
    batch_size: int | None = None
    ignore_failure: bool = True
    argument: str = "dataset"

    @property
    def log(self) -> Log:
        """A log to stderr, or none."""
        return _log_to_stderr if self.progress else silent


@dataclass(frozen=True)
class Dataset:
    """Rows with labels, and either images or vectors.

    Attributes:
        labels: (n,) Int64 or String.
        feature: the column of the images or vectors.
        images: n images, or None.
        vectors: (n, d) float32, or None.
        is_null: (n,) bool, the rows without a vector; None without vectors.
    """

    labels: pl.Series
    feature: str
    images: Sequence[ImageRef] | None = None
    vectors: NDArray[np.float32] | None = None
    is_null: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def optional_images(self) -> Sequence[ImageRef | None]:
        """An image for every row, None for vectors."""
        return self.images or [None] * len(self)


def read_dataset(dataset: Any, options: DatasetOptions) -> Dataset:
    """Read a frame, folder, glob, list, array or single image; images are not decoded yet.

    Raises:
        SettingsError: when it is none of these or empty, or when a column is missing or has a
            wrong type. The message names the argument and the fix.
    """
    frame, feature = _to_frame(dataset, options)
    if not frame.height:
        raise SettingsError(
            f"{options.argument} is empty; give at least one row with an image or a vector"
        )
    labels = _labels(frame, options)
    values = frame[feature]
    if _is_vector_type(values.dtype):
        vectors, is_null = _vectors(values, options)
        return Dataset(labels, feature, vectors=vectors, is_null=is_null)
    return Dataset(labels, feature, images=_images(values.to_list(), labels.to_list(), options))


def list_image_files(location: str, argument: str, *, recursive: bool = True) -> list[ImageRef]:
    """The images of a folder or glob, local or on fsspec, sorted by path; the path is the name.

    Hidden files and files without the suffix of an image are ignored.

    Raises:
        SourceError: when there is no such folder.
        SettingsError: when it holds no image.
    """
    source = open_source(SourceSettings(path=location, format="images"), Path.cwd())
    files = [file for file in source.files if recursive or "/" not in file.name]
    if not files:
        raise SettingsError(f"{argument}: {location} holds no images; name a folder that does")
    return [ImageRef(file.path, partial(_read_source_file, source, file)) for file in files]


def _read_source_file(source: Source, file: SourceFile) -> bytes:
    with source.fs.open(file.path, "rb") as opened:
        data: bytes = opened.read()
        return data


# ---- frames -------------------------------------------------------------------------


def _to_frame(dataset: Any, options: DatasetOptions) -> tuple[pl.DataFrame, str]:
    """A dataset as a frame, and its column of images or vectors."""
    if isinstance(dataset, pl.LazyFrame):
        dataset = dataset.collect()
    if isinstance(dataset, pl.DataFrame):
        return dataset, _choose_feature(dataset, options)
    if hasattr(dataset, "columns") and hasattr(dataset, "iloc"):  # pandas, without importing it
        frame = pl.DataFrame([_column(str(name), list(dataset[name])) for name in dataset.columns])
        return frame, _choose_feature(frame, options)
    if isinstance(dataset, str | os.PathLike) and _is_folder_or_glob(str(dataset)):
        paths = [image.name for image in list_image_files(str(dataset), options.argument)]
        return pl.DataFrame({"path": paths}), "path"
    name = options.feature or "image"
    if isinstance(dataset, pl.Series):
        return dataset.alias(name).to_frame(), name
    return pl.DataFrame([_column(name, _to_list(dataset, options))]), name


def _is_folder_or_glob(text: str) -> bool:
    is_glob = any(character in text for character in "*?[")
    return not is_url(text) and (is_glob or Path(text).expanduser().is_dir())


def _to_list(dataset: Any, options: DatasetOptions) -> list[Any]:
    if isinstance(dataset, str | os.PathLike | bytes | Image.Image):
        return [dataset]
    if isinstance(dataset, np.ndarray):
        # An array of uint8 is an image; another one is a vector, or a matrix of vectors.
        is_single = dataset.dtype == np.uint8 or dataset.ndim == 1
        return [dataset] if is_single else list(dataset)
    if isinstance(dataset, Sequence):
        if dataset and all(isinstance(value, int | float) for value in dataset):
            return [np.asarray(dataset, dtype=np.float32)]
        return list(dataset)
    raise SettingsError(
        f"{options.argument} is {type(dataset).__name__}; give a frame of polars or pandas, a "
        "folder, a list of images, paths, URLs or vectors, or a single one"
    )


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    """Python values as a column of their type."""
    nullable = [None if _is_null(value) else value for value in values]
    present = [value for value in nullable if value is not None]
    if present and all(_is_vector(value) for value in present):
        rows = [None if row is None else np.asarray(row, np.float32).tolist() for row in nullable]
        return pl.Series(name, rows, dtype=pl.List(pl.Float32))
    if all(isinstance(value, str | os.PathLike) for value in present):
        texts = [None if value is None else os.fspath(value) for value in nullable]
        return pl.Series(name, texts, dtype=pl.String)
    if all(isinstance(value, bytes) for value in present):
        return pl.Series(name, nullable, dtype=pl.Binary)
    if all(isinstance(value, int | np.integer) and value is not True for value in present):
        return pl.Series(name, nullable, dtype=pl.Int64)
    if all(isinstance(value, bool | int | float | np.floating) for value in present):
        return pl.Series(name, nullable, strict=False)
    return pl.Series(name, nullable, dtype=pl.Object)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _is_vector(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype != np.uint8
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_list and all(isinstance(number, int | float | np.number) for number in value)


def _choose_feature(frame: pl.DataFrame, options: DatasetOptions) -> str:
    """The column of images or vectors: the declared one, else the only candidate."""
    if options.feature is not None:
        _require_column(frame, options.feature, "feature", options)
        dtype = frame.schema[options.feature]
        if not (_is_vector_type(dtype) or _is_image_type(dtype) or dtype == pl.String):
            raise SettingsError(
                f"feature: column {options.feature!r} holds {dtype}; it must hold images, "
                "bytes, paths, URLs or vectors"
            )
        return options.feature
    columns = {name: dtype for name, dtype in frame.schema.items() if name != options.label}
    for is_candidate_type in (_is_vector_type, _is_image_type):
        candidates = [name for name, dtype in columns.items() if is_candidate_type(dtype)]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise SettingsError(f"feature: {_quoted(candidates)} are candidates; name one of them")
    text_columns = [name for name, dtype in columns.items() if dtype == pl.String]
    # As in the lists of the shell and of YAML.
    recognized = image_column(frame.select(text_columns).head(_SAMPLE_ROWS))
    if isinstance(recognized, str):
        return recognized
    named = [name for name in _IMAGE_COLUMNS if name in (recognized or text_columns)]
    if len(named) == 1 or len(text_columns) == 1:
        return (named or text_columns)[0]
    if recognized or named:
        raise SettingsError(f"feature: {_quoted(recognized or named)} are candidates; name one")
    raise SettingsError(
        f"feature: no column of {options.argument} is clearly the images or vectors; name one "
        f"of {_quoted(frame.columns) or 'its columns'}"
    )


def _is_vector_type(dtype: pl.DataType) -> bool:
    inner = getattr(dtype, "inner", None)
    return isinstance(dtype, pl.Array | pl.List) and inner is not None and inner.is_numeric()


def _is_image_type(dtype: pl.DataType) -> bool:
    return dtype in (pl.Binary, pl.Object)


def _require_column(frame: pl.DataFrame, column: str, key: str, options: DatasetOptions) -> None:
    if column not in frame.columns:
        raise SettingsError(
            f"{key}: {options.argument} has no column {column!r}; it has {_quoted(frame.columns)}"
        )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _labels(frame: pl.DataFrame, options: DatasetOptions) -> pl.Series:
    if options.label is None:
        return pl.Series("label", range(frame.height), dtype=pl.Int64)
    _require_column(frame, options.label, "label", options)
    labels = frame[options.label].alias("label")
    if not (labels.dtype.is_integer() or labels.dtype == pl.String):
        raise SettingsError(
            f"label: column {options.label!r} holds {labels.dtype}; labels are integers or text: "
            "cast it to one of these"
        )
    if labels.null_count():
        row = labels.is_null().arg_max()
        raise SettingsError(f"label: column {options.label!r} is null in row {row}; fill it in")
    return labels.cast(pl.Int64) if labels.dtype.is_integer() else labels


def _vectors(
    values: pl.Series, options: DatasetOptions
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rows = values.to_list()
    dimensions = {len(row) for row in rows if row is not None}
    if len(dimensions) != 1 or 0 in dimensions:
        raise SettingsError(
            f"{options.argument}: the vectors of column {values.name!r} have "
            f"{' and '.join(map(str, sorted(dimensions))) or 'no'} numbers; all must have the same"
        )
    zeros = [0.0] * dimensions.pop()
    dense = [zeros if row is None else [np.nan if n is None else n for n in row] for row in rows]
    vectors = np.array(dense, dtype=np.float32)
    not_finite = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(not_finite):
        raise SettingsError(
            f"{options.argument}: the vector of row {not_finite[0]} is not finite "
            f"({len(not_finite)} rows are not); omit such rows"
        )
    return vectors, np.array([row is None for row in rows])


# ---- images -------------------------------------------------------------------------


def _images(
    values: Sequence[Any], labels: Sequence[Any], options: DatasetOptions
) -> list[ImageRef]:
    """Images, bytes, pixel arrays, paths and URLs as ImageRefs; URLs are fetched now."""
    download = options.download or DownloadSettings()
    urls = [value for value in values if isinstance(value, str) and is_url(value)]
    by_url = fetch_urls(urls, download, log=options.log)
    return [
        _image(value, f"{options.argument} row {row} (label {label})", by_url, download.max_bytes)
        for row, (value, label) in enumerate(zip(values, labels, strict=True))
    ]


def _image(value: Any, row_name: str, by_url: Mapping[str, ImageRef], max_bytes: int) -> ImageRef:
    if value is None:
        return failed_image(row_name, "no_image", "the value is null")
    if isinstance(value, str) and is_url(value):
        return by_url[value]
    if isinstance(value, str | os.PathLike):
        path = Path(value).expanduser()
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
