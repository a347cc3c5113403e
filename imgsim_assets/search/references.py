"""The reference items of a model: labels, and a vector for each of their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from imgsim_assets.errors import SettingsError
from imgsim_assets.search.image_ref import ImageDigests, ImageRef
from imgsim_assets.search.item_rows import ItemRows
from imgsim_assets.search.neighbors import (
    Compare,
    Metric,
    Neighbors,
    SearchParams,
    find_neighbors,
    normalize,
)
from imgsim_assets.similarity.cosine import Floats, Indices


@dataclass(frozen=True)
class References:
    """Reference items in the order they were added, and a row for each of their images.

    Attributes:
        metric: "euclidean" or "cosine".
        labels: (m,) Int64 or String, unique, one for each item.
        rows: the item of each of the n rows.
        vectors: (n, d) float32; unit vectors for "cosine".
        digests: n digests of the images, for recognizing them in a query.
        images: n images; None where a row has no image or it cannot be loaded again.
    """

    metric: Metric
    labels: pl.Series
    rows: ItemRows = field(default_factory=lambda: ItemRows.single(0))
    vectors: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    digests: Sequence[ImageDigests] = ()
    images: Sequence[ImageRef | None] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def optional_images(self) -> Sequence[ImageRef | None]:
        """The images, named as those of a dataset are."""
        return self.images

    @property
    def entries(self) -> pl.DataFrame:
        """The label and the number of the image of each row: label, image (Int32)."""
        labels = self.labels.gather(self.rows.item).alias("label")
        return pl.DataFrame([labels, pl.Series("image", self.rows.image, dtype=pl.Int32)])

    def vectors_by_digest(self) -> dict[str, Floats]:
        """The vector of every known digest of a file or of pixels."""
        return {
            digest: vector
            for digests, vector in zip(self.digests, self.vectors, strict=True)
            for digest in (digests.sha256, digests.pixels)
            if digest is not None
        }

    def compared(self, compare: Compare) -> References:
        """The items with the images that count: the first one of each for compare="first"."""
        if compare != "first" or len(self.rows) == len(self):
            return self
        return self._select(self.rows.firsts)

    def search(self, vectors: Floats, params: SearchParams) -> Neighbors:
        """Find the rows nearest to each vector (m, d); SettingsError for a wrong vector."""
        return find_neighbors(self.comparable(vectors), self.vectors, self.metric, params)

    def comparable(self, vectors: Floats) -> Floats:
        """The vectors (m, d) as they are compared: of length 1 for "cosine"."""
        return normalize(vectors, "dataset") if self.metric == "cosine" else vectors

    def require_dimension(self, vectors: Floats, subject: str) -> None:
        """Raise SettingsError unless vectors (n, d) have the dimension of the items."""
        if len(self) and len(vectors) and vectors.shape[1] != self.vectors.shape[1]:
            raise SettingsError(
                f"{subject} {vectors.shape[1]} numbers, the model's {self.vectors.shape[1]}; "
                "use the encoder (or the features) that the model was created with"
            )

    def require_new_labels(self, labels: pl.Series) -> None:
        """Raise SettingsError unless labels have the type of the items' and are unique."""
        if labels.dtype != self.labels.dtype:
            raise SettingsError(
                f"label: the new labels are {labels.dtype}, the model's {self.labels.dtype}; name "
                "a column of that type"
            )
        repeated = labels.filter(labels.is_duplicated() | labels.is_in(self.labels.implode()))
        if len(repeated):
            raise SettingsError(
                f"label: {repeated[0]!r} is not unique ({len(repeated)} rows are not); give "
                "every item its own label"
            )

    def next_labels(self, count: int) -> pl.Series:
        """Integers that follow the largest label."""
        largest = self.labels.max()
        start = int(largest) + 1 if isinstance(largest, int) else 0
        return pl.Series("label", range(start, start + count), dtype=pl.Int64)

    def append(
        self,
        labels: pl.Series,
        rows: ItemRows,
        vectors: Floats,
        digests: Sequence[ImageDigests],
        images: Sequence[ImageRef | None],
    ) -> References:
        """These items followed by new ones; those without a row are left out.

        Raises:
            SettingsError: for a wrong vector.
        """
        vectors = self.comparable(vectors)
        items, rows = rows.compacted()
        return replace(
            self,
            labels=pl.concat([self.labels, labels.gather(items)]),
            rows=self.rows.append(rows, len(self)),
            vectors=np.concatenate([self.vectors, vectors]) if len(self) else vectors,
            digests=[*self.digests, *digests],
            images=[*self.images, *images],
        )

    def remove(self, labels: Sequence[Any]) -> References:
        """The items without those of some labels; SettingsError for an unknown label."""
        existing_labels = self.labels.to_list()
        known_labels = set(existing_labels)
        for label in labels:
            if label not in known_labels:
                raise SettingsError(f"labels: there is no item {label!r}")
        is_removed = np.isin(existing_labels, list(labels))
        remaining = self._select(np.flatnonzero(~is_removed[self.rows.item]))
        _, rows = remaining.rows.compacted()
        return replace(remaining, labels=self.labels.filter(~is_removed), rows=rows)

    def _select(self, positions: Indices) -> References:
        """The rows at some ascending positions, of the same items."""
        return replace(
            self,
            rows=self.rows.take(positions),
            vectors=self.vectors[positions],
            digests=[self.digests[row] for row in positions.tolist()],
            images=[self.images[row] for row in positions.tolist()],
        )
