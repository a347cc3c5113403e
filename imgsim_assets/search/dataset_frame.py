"""Any dataset as a Polars frame, and its column of images or vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from imgsim_assets.catalog.columns import image_column
from imgsim_assets.errors import SettingsError
from imgsim_assets.search.cells import is_list, is_null
from imgsim_assets.search.dataset import DatasetOptions
from imgsim_assets.search.image_files import is_folder_or_glob, list_image_files

# Names of text columns that hold images, where the cells do not tell.
_IMAGE_COLUMNS = ("image", "path", "url", "image_url", "file", "picture")
_IMAGE_LISTS = tuple(f"{name}s" for name in _IMAGE_COLUMNS)
_SAMPLE_ROWS = 10_000
_VECTOR = pl.List(pl.Float32)


def to_frame(dataset: Any, options: DatasetOptions) -> tuple[pl.DataFrame, str]:
    """A dataset as a frame, and its column of images or vectors.

    Raises:
        SettingsError: when it is no dataset, or when its column is missing, not clear, or of a
            wrong type.
    """
    if isinstance(dataset, str) and not dataset.strip():
        raise SettingsError(
            f"{options.argument} is an empty text; give a folder, a path, a URL or the name of a "
            "catalog"
        )
    if isinstance(dataset, str | os.PathLike) and is_folder_or_glob(str(dataset)):
        paths = [image.name for image in list_image_files(str(dataset), options.argument)]
        return pl.DataFrame({"path": paths}), "path"
    name = options.feature or "image"
    if isinstance(dataset, pl.Series):
        return dataset.alias(name).to_frame(), name
    frame = _table(dataset)
    if frame is not None:
        return frame, _choose_feature(frame, options)
    return pl.DataFrame([_column(name, _to_list(dataset, options))]), name


def _table(dataset: Any) -> pl.DataFrame | None:
    """A table of any library, or a list of rows, as a frame; None if it is none of these."""
    if isinstance(dataset, pl.DataFrame | pl.LazyFrame):
        return dataset.lazy().collect()
    if hasattr(dataset, "columns") and hasattr(dataset, "iloc"):  # pandas, without importing it
        return pl.DataFrame([_column(str(name), list(dataset[name])) for name in dataset.columns])
    if hasattr(dataset, "__arrow_c_stream__"):  # pyarrow and other Arrow libraries
        return pl.DataFrame(dataset)
    is_list = isinstance(dataset, Sequence) and not isinstance(dataset, str | bytes)
    if is_list and len(dataset) and all(isinstance(row, Mapping) for row in dataset):
        names = dict.fromkeys(name for row in dataset for name in row)
        return pl.DataFrame(
            [_column(str(name), [row.get(name) for row in dataset]) for name in names]
        )
    return None


def _to_list(dataset: Any, options: DatasetOptions) -> list[Any]:
    if isinstance(dataset, str | os.PathLike | bytes | Image.Image):
        return [dataset]
    if isinstance(dataset, np.ndarray):
        # An array of uint8 is an image; another one is a vector, or a matrix of vectors.
        is_single = dataset.dtype == np.uint8 or _is_vector(dataset)
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
    nullable = [None if is_null(value) else value for value in values]
    present = [value for value in nullable if value is not None]

    def all_are(is_kind: Callable[[Any], bool]) -> bool:
        return all(map(is_kind, present))

    if present and all_are(_is_vector):
        return pl.Series(name, _convert(nullable, _vector), dtype=_VECTOR)
    if present and all_are(_is_list_of(_is_vector)):
        lists = _convert(nullable, lambda value: _convert(value, _vector))
        return pl.Series(name, lists, dtype=pl.List(_VECTOR))
    if all_are(_is_text):
        return pl.Series(name, _convert(nullable, os.fspath), dtype=pl.String)
    if all_are(_is_list_of(_is_text)):
        lists = _convert(nullable, lambda value: _convert(value, os.fspath))
        return pl.Series(name, lists, dtype=pl.List(pl.String))
    if all_are(lambda value: isinstance(value, bytes)):
        return pl.Series(name, nullable, dtype=pl.Binary)
    if all_are(lambda value: isinstance(value, int | np.integer) and value is not True):
        return pl.Series(name, nullable, dtype=pl.Int64)
    if all_are(lambda value: isinstance(value, bool | int | float | np.floating)):
        return pl.Series(name, nullable, strict=False)
    return pl.Series(name, nullable, dtype=pl.Object)


def _convert(values: Iterable[Any], function: Callable[[Any], Any]) -> list[Any]:
    """The function of each value, None for a null."""
    return [None if is_null(value) else function(value) for value in values]


def _vector(value: Any) -> list[float]:
    numbers: list[float] = np.asarray(value, np.float32).tolist()
    return numbers


def _is_vector(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        is_number = np.issubdtype(value.dtype, np.number)
        return value.ndim == 1 and is_number and value.dtype != np.uint8
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return is_list and all(isinstance(number, int | float | np.number) for number in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _is_list_of(is_kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: is_list(value) and all(is_null(entry) or is_kind(entry) for entry in value)


def _choose_feature(frame: pl.DataFrame, options: DatasetOptions) -> str:
    """The column of images or vectors: the declared one, else the only candidate."""
    if options.feature is not None:
        require_column(frame, options.feature, "feature", options)
        dtype = frame.schema[options.feature]
        if not (holds_vectors(dtype) or _holds_images(dtype) or _holds_text(dtype)):
            raise SettingsError(
                f"feature: column {options.feature!r} holds {dtype}; it must hold images, "
                "bytes, paths, URLs or vectors, or lists of these"
            )
        return options.feature
    columns = {name: dtype for name, dtype in frame.schema.items() if name != options.label}
    for is_candidate_type in (holds_vectors, _holds_images):
        candidates = [name for name, dtype in columns.items() if is_candidate_type(dtype)]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise SettingsError(f"feature: {_quoted(candidates)} are candidates; name one of them")
    text_columns = [name for name, dtype in columns.items() if dtype == pl.String]
    list_columns = [name for name, dtype in columns.items() if _entry_type(dtype) == pl.String]
    # As in the lists of the shell and of YAML.
    recognized = image_column(_first_entries(frame, text_columns, list_columns))
    if isinstance(recognized, str):
        return recognized
    named = [
        name
        for name in columns
        if name in (recognized or [*text_columns, *list_columns])
        and name in (_IMAGE_COLUMNS if name in text_columns else _IMAGE_LISTS)
    ]
    only = named or text_columns or list_columns
    if len(only) == 1:
        return only[0]
    if recognized or named:
        raise SettingsError(f"feature: {_quoted(recognized or named)} are candidates; name one")
    raise SettingsError(
        f"feature: no column of {options.argument} is clearly the images or vectors; name one "
        f"of {_quoted(frame.columns) or 'its columns'}"
    )


def _first_entries(
    frame: pl.DataFrame, text_columns: Sequence[str], list_columns: Sequence[str]
) -> pl.DataFrame:
    """A sample of text columns, and of the first entry of each list of text."""
    lists = [pl.col(name).cast(pl.List(pl.String)) for name in list_columns]
    firsts = [column.list.drop_nulls().list.first() for column in lists]
    return frame.head(_SAMPLE_ROWS).select(text_columns, *firsts)


def _entry_type(dtype: pl.DataType) -> pl.DataType | None:
    """The type of the entries of a column of lists; None for other columns."""
    inner = dtype.inner if isinstance(dtype, pl.Array | pl.List) else None
    return inner if isinstance(inner, pl.DataType) else None


def _is_vector_type(dtype: pl.DataType) -> bool:
    inner = _entry_type(dtype)
    return inner is not None and inner.is_numeric()


def holds_vectors(dtype: pl.DataType) -> bool:
    """Whether a column holds vectors, or lists of vectors."""
    return _is_vector_type(dtype) or holds_vector_lists(dtype)


def holds_vector_lists(dtype: pl.DataType) -> bool:
    """Whether a column holds lists of vectors."""
    inner = _entry_type(dtype)
    return inner is not None and _is_vector_type(inner)


def _holds_images(dtype: pl.DataType) -> bool:
    return dtype in (pl.Binary, pl.Object) or _entry_type(dtype) == pl.Binary


def _holds_text(dtype: pl.DataType) -> bool:
    return pl.String in (dtype, _entry_type(dtype))


def require_column(frame: pl.DataFrame, column: str, key: str, options: DatasetOptions) -> None:
    """Raise SettingsError unless the frame has a column that a key names."""
    if column not in frame.columns:
        raise SettingsError(
            f"{key}: {options.argument} has no column {column!r}; it has {_quoted(frame.columns)}"
        )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
