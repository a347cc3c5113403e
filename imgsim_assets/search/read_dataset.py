"""Reads any accepted dataset: a frame, folder, list, single image, or the name of a catalog."""

from __future__ import annotations

from typing import Any

import polars as pl

from imgsim_assets.errors import SettingsError
from imgsim_assets.search.catalog_dataset import find_catalog, read_catalog
from imgsim_assets.search.cells import cells_of, is_list, read_images, read_vectors
from imgsim_assets.search.dataset import Dataset, DatasetOptions
from imgsim_assets.search.dataset_frame import (
    holds_vector_lists,
    holds_vectors,
    require_column,
    to_frame,
)


def read_dataset(dataset: Any, options: DatasetOptions) -> Dataset:
    """Read a frame, folder, glob, list, array, single image or catalog; nothing is decoded yet.

    Raises:
        SettingsError: when it is none of these or empty, or when a column is missing or has a
            wrong type. The message names the argument and the fix.
    """
    store = find_catalog(dataset, options)
    if store is not None:
        return read_catalog(store, dataset, options)
    frame, feature = to_frame(dataset, options)
    if not frame.height:
        raise SettingsError(
            f"{options.argument} is empty; give at least one row with an image or a vector"
        )
    labels = _labels(frame, options)
    if holds_vectors(frame.schema[feature]):
        rows, vectors, has_vector = read_vectors(frame[feature], options)
        has_lists = holds_vector_lists(frame.schema[feature])
        return Dataset(
            labels, feature, rows, vectors=vectors, has_vector=has_vector, has_lists=has_lists
        )
    cells = cells_of(frame[feature])
    rows, images = read_images(cells, labels.to_list(), options)
    return Dataset(labels, feature, rows, images=images, has_lists=any(map(is_list, cells)))


def _labels(frame: pl.DataFrame, options: DatasetOptions) -> pl.Series:
    if options.label is None:
        return pl.Series("label", range(frame.height), dtype=pl.Int64)
    require_column(frame, options.label, "label", options)
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
