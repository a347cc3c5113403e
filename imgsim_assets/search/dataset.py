"""A dataset in one form: items with labels, and the images or vectors of each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.download.settings import DownloadSettings
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.progress import Log, silent
from imgsim_assets.search.image_ref import ImageDigests, ImageRef
from imgsim_assets.search.item_rows import ItemRows
from imgsim_assets.storage.store import Store
from imgsim_assets.text import printable


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
        store: the store of a catalog that is given by its name, None for the default.
    """

    label: str | None = None
    feature: str | None = None
    download: DownloadSettings | None = None
    progress: bool = False
    batch_size: int | None = None
    ignore_failure: bool = True
    argument: str = "dataset"
    store: Store | str | Path | None = None

    @property
    def log(self) -> Log:
        """A log to stderr, or none."""
        return _log_to_stderr if self.progress else silent


@dataclass(frozen=True)
class CatalogVersion:
    """The embeddings of a catalog that a dataset was read from."""

    name: str
    version: int
    store: str
    encoder: EncoderSettings
    fingerprint: str

    @property
    def source(self) -> dict[str, Any]:
        """Name, version and store, as a model records them."""
        return {"name": self.name, "version": self.version, "store": self.store}


@dataclass(frozen=True)
class Dataset:
    """Items with labels, and a row for each of their images or vectors.

    Attributes:
        labels: (m,) Int64 or String, one for each item.
        feature: the column of the images or vectors.
        rows: the item of each of the n images or vectors.
        images: n images, or None.
        vectors: (n, d) float32, or None.
        has_vector: (n,) bool; None without vectors.
        digests: n digests of the images, where they are known without reading them.
        catalog: where images and vectors come from, if that is a catalog.
        has_lists: whether its cells are lists of images or vectors.
    """

    labels: pl.Series
    feature: str
    rows: ItemRows
    images: Sequence[ImageRef] | None = None
    vectors: NDArray[np.float32] | None = None
    has_vector: NDArray[np.bool_] | None = None
    digests: Sequence[ImageDigests] | None = None
    catalog: CatalogVersion | None = None
    has_lists: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def optional_images(self) -> Sequence[ImageRef | None]:
        """An image for every row, None for vectors."""
        return self.images or [None] * len(self.rows)

    def with_labels(self, labels: pl.Series) -> Dataset:
        """The same items under other labels (m,)."""
        return replace(self, labels=labels)
