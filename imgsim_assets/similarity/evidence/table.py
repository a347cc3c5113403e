"""The table `image_features/<fingerprint>`: the features of images, by the sha256 of their bytes.

All catalogs of a store share it. Like a vector, the features of an image never change; garbage
collection deletes those of images that no catalog has any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.encoders.vector_files import (
    compact,
    compaction_is_due,
    drop_damaged,
    frames_with,
    vector_files,
    write_vectors,
)
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.similarity.evidence.features import (
    CHROMA_EDGE,
    ImageFeatures,
    features_fingerprint,
    scaled_size,
)
from imgsim_assets.storage.commit import Commit, DataFile
from imgsim_assets.storage.gc import PER_IMAGE, SHA256
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

IMAGE_FEATURES = "image_features"
# `pixels` is null, and there are no features, for an image that cannot be decoded.
_SCHEMA = {
    SHA256: pl.String,
    "pixels": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "points": pl.Binary,
    "descriptors": pl.Binary,
    "thumbnail": pl.Binary,
    "thumbnail_width": pl.UInt8,
    "chroma": pl.Binary,
}


class FeatureTable:
    """The features of a store's images under the present fingerprint.

    Raises:
        SettingsError: OpenCV is not installed.
    """

    def __init__(self, store: Store) -> None:
        name = f"{IMAGE_FEATURES}/{features_fingerprint()}"
        self.table: Table = store.table(name, key=SHA256)

    def read(self, images: Iterable[str]) -> dict[str, ImageFeatures | None]:
        """The features of images (sha256) that have a row; None for an image that has none.

        Damaged files leave the table, so that their features are computed again.
        """
        missing = set(images)
        commit = self.table.latest()
        if commit is None or not missing:
            return {}
        try:
            frames = list(frames_with(self.table, vector_files(commit), missing))
        except CorruptFileError:
            drop_damaged(self.table, commit)
            return self.read(images)
        return {
            row[SHA256]: _features(row) for frame in frames for row in frame.iter_rows(named=True)
        }

    def without_features(self, images: Iterable[str]) -> list[str]:
        """Those of some images (sha256) that have no row, sorted. Only keys are read."""
        missing = set(images)
        commit = self.table.latest()
        if commit is None or not missing:
            return sorted(missing)
        try:
            for file in vector_files(commit):
                missing -= set(self.table.read_file(file.keys)[SHA256])
        except CorruptFileError:
            drop_damaged(self.table, commit)
            return self.without_features(images)
        return sorted(missing)

    def write(self, features: Mapping[str, ImageFeatures | None]) -> list[DataFile]:
        """Store the features of images by sha256; None for one that cannot be decoded."""
        if not features:
            return []
        rows = [_row(sha256, each) for sha256, each in sorted(features.items())]
        return write_vectors(self.table, pl.DataFrame(rows, schema=_SCHEMA, orient="row"))

    def append(self, added: Sequence[DataFile]) -> None:
        """Commit files of `write`."""
        if not added:
            return
        bases: list[Commit | None] = []

        def properties(base: Commit | None) -> Mapping[str, Any]:
            bases.append(base)
            return {PER_IMAGE: True}

        commit = self.table.append(added, properties)
        if commit is not None and compaction_is_due(bases[-1], commit):
            try:
                compact(self.table, commit)
            except CorruptFileError:
                drop_damaged(self.table, commit)


def _row(sha256: str, features: ImageFeatures | None) -> tuple[Any, ...]:
    if features is None:
        return (sha256, *[None] * (len(_SCHEMA) - 1))
    return (
        sha256,
        features.pixels,
        features.width,
        features.height,
        features.points.astype("<u2").tobytes(),
        features.descriptors.tobytes(),
        features.thumbnail.tobytes(),
        features.thumbnail.shape[1],
        features.chroma.tobytes(),
    )


def _features(row: Mapping[str, Any]) -> ImageFeatures | None:
    if row["pixels"] is None:
        return None
    chroma_width, _ = scaled_size((row["width"], row["height"]), CHROMA_EDGE)
    return ImageFeatures(
        row["pixels"],
        row["width"],
        row["height"],
        _array(row["points"], "<u2", 4).astype(np.uint16),
        _array(row["descriptors"], np.uint8, 64),
        _array(row["thumbnail"], np.uint8, row["thumbnail_width"]),
        _array(row["chroma"], np.uint8, 2 * chroma_width).reshape(-1, chroma_width, 2),
    )


def _array(data: bytes, dtype: Any, width: int) -> NDArray[Any]:
    return np.frombuffer(data, dtype).reshape(-1, width)
