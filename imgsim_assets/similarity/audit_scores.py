"""The brute-force similarities that an audit compares results with; no code of the joins.

Vectors are read in blocks: an audit takes the memory of its scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.errors import StoreError
from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.similarity import items
from imgsim_assets.similarity.items import LEFT_OUT, ORIENTATION, VALUE
from imgsim_assets.similarity.materialized import LEFT_ITEMS, ORIENTATIONS_PROPERTY, read_role
from imgsim_assets.similarity.orientations import stored_turned
from imgsim_assets.similarity.vector_blocks import VectorBlocks
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# Two ways to sum a float64 product differ by less; a pair this near a cutoff may be on either
# side of it.
TOLERANCE = 1e-6
# Right vectors that are converted to float64 at once.
_RIGHT_ROWS = 8192
_MAX_SCORES = 1 << 24


@dataclass(frozen=True)
class ScoredItems:
    """Items with the vectors of their compared images; `keys` is sorted by id.

    Attributes:
        keys: a row (id, sha256, and value where items must agree in one) for each vector. Where
            images are turned, also `orientation` (its number), and eight rows for each image.
        vectors: of the n rows.
    """

    keys: pl.DataFrame
    vectors: VectorBlocks

    @cached_property
    def start(self) -> NDArray[np.int64]:
        """The first row of each item."""
        ids = self.keys["id"]
        begins = ids.ne_missing(ids.shift(1)).to_numpy()
        return np.flatnonzero(begins)

    @cached_property
    def ids(self) -> list[str]:
        """The items."""
        return self.keys["id"].gather(self.start).to_list()

    @cached_property
    def rows_of(self) -> NDArray[np.int64]:
        """How many vectors each item has."""
        return np.diff(np.append(self.start, self.keys.height))

    def __len__(self) -> int:
        return len(self.start)

    def vectors_of(self, item: int) -> NDArray[np.float64]:
        """The vectors of one item in float64."""
        start = int(self.start[item])
        return self.vectors.read(start, start + int(self.rows_of[item])).astype(np.float64)

    def named_rows(self, item: int, sha256: str, orientation: str | None) -> NDArray[np.bool_]:
        """Which vectors of one item are of an image, and in an orientation where it has several."""
        rows = self.keys.slice(int(self.start[item]), int(self.rows_of[item]))
        is_named = pl.col("sha256") == sha256
        if ORIENTATION in rows.columns:
            names = [each.name for each in ORIENTATIONS]
            is_named &= pl.col(ORIENTATION) == names.index(str(orientation))
        return rows.select(is_named).to_series().to_numpy()

    def where(self, mask: NDArray[np.bool_]) -> ScoredItems:
        """The items of a mask."""
        rows = np.repeat(mask, self.rows_of)
        return ScoredItems(
            self.keys.filter(pl.Series(rows)), self.vectors.take(np.flatnonzero(rows))
        )

    def sample(self, size: int, seed: int) -> ScoredItems:
        """Some of the items, at random."""
        mask = np.zeros(len(self), dtype=bool)
        mask[np.random.default_rng(seed).permutation(len(self))[:size]] = True
        return self.where(mask)

    def batches(self, width: int) -> Iterator[ScoredItems]:
        """The items, as many at a time as may be scored with `width` vectors."""
        largest = int(self.rows_of.max(initial=1))
        step = max(1, _MAX_SCORES // max(1, width * largest))
        number = np.arange(len(self))
        for start in range(0, len(self), step):
            yield self.where((number >= start) & (number < start + step))

    def positions(self, others: ScoredItems) -> NDArray[np.int64]:
        """Where each of these items is among others."""
        return np.searchsorted(np.array(others.ids, dtype=object), np.array(self.ids, dtype=object))


def recorded_items(
    store: Store, catalog: str, table: Table, commit: Commit, role: str
) -> ScoredItems:
    """The items that a result was computed from, with their vectors as the store has them now.

    The left items of a result over orientations are turned.

    Raises:
        StoreError: when the commit does not say which items.
    """
    recorded = read_role(table, commit, role)
    if recorded is None:
        raise StoreError(f"table {table.name} version {commit.version} lists no {role}")
    if LEFT_OUT in recorded.columns:
        recorded = recorded.filter(pl.col(LEFT_OUT).is_null())
    keys = recorded.sort("id", "sha256").drop("image", LEFT_OUT, strict=False)
    fingerprint = commit.properties[FINGERPRINT]
    upright = items.with_vectors(store, catalog, fingerprint, keys)
    if role != LEFT_ITEMS or not commit.properties.get(ORIENTATIONS_PROPERTY):
        return ScoredItems(keys, upright.blocks)
    turned = stored_turned(store, catalog, fingerprint, upright)
    return ScoredItems(turned.keys, turned.blocks)


def scores(left: ScoredItems, right: ScoredItems, properties: Any) -> NDArray[np.float64]:
    """The similarity of each left item with each right item, (n, m), by a float64 product.

    Args:
        left: the left items.
        right: the right items.
        properties: of the commit, which say how items with several images are compared.
    """
    if not len(left) or not len(right):
        return np.empty((len(left), len(right)))
    products = np.empty((len(left.vectors), len(right)))
    for rows, left_vectors in left.vectors.blocks():
        of_block = slice(rows, rows + len(left_vectors))
        products[of_block] = _best_products(left_vectors.astype(np.float64), right)
    similarities: NDArray[np.float64]
    if properties.get("compare") == "mean_best":
        of_each = len(ORIENTATIONS) if ORIENTATION in left.keys.columns else 1
        of_images = products.reshape(-1, of_each, len(right)).max(axis=1)
        sums = np.add.reduceat(of_images, left.start // of_each, axis=0)
        similarities = sums / (left.rows_of // of_each)[:, None]
    else:
        similarities = np.maximum.reduceat(products, left.start, axis=0)
    if VALUE in left.keys.columns:
        values, others = (side.keys[VALUE].gather(side.start).to_numpy() for side in (left, right))
        similarities[values[:, None] != others[None, :]] = -np.inf
    return similarities


def _best_products(left_vectors: NDArray[np.float64], right: ScoredItems) -> NDArray[np.float64]:
    """The product of each left row with the best row of each right item."""
    products = np.empty((len(left_vectors), len(right)))
    ends = np.append(right.start, len(right.vectors))
    first = 0
    # In parts: there may be many right vectors, and float64 doubles them.
    while first < len(right):
        stop = max(first + 1, int(np.searchsorted(ends, ends[first] + _RIGHT_ROWS, "right")) - 1)
        part = right.vectors.read(int(ends[first]), int(ends[stop])).astype(np.float64)
        starts = right.start[first:stop] - ends[first]
        products[:, first:stop] = np.maximum.reduceat(left_vectors @ part.T, starts, axis=1)
        first = stop
    return products
