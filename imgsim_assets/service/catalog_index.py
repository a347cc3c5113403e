"""The index of a catalog, opened for searches by item."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from imgsim_assets.catalog.image_key import IMAGE
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.errors import StoreError
from imgsim_assets.index.stage import open_index
from imgsim_assets.similarity.cosine import Floats, Indices, distances, pair_cosines

if TYPE_CHECKING:
    from imgsim_assets.index.flat import FlatIndex
    from imgsim_assets.storage.commit import Commit
    from imgsim_assets.storage.store import Store

# Images that a search takes beyond what it needs: of several, float32 does not know the nearest.
_RESERVE = 16
# A search that found too few items is repeated for as many times more images.
_GROWTH = 4
# Versions of an index that are kept: requests may still use the last one.
_MAX_VERSIONS = 2


@dataclass(frozen=True)
class CatalogIndex:
    """A version of the index of a catalog. Safe for use by several threads.

    Attributes:
        commit: The version.
        index: Its vectors and entries.
    """

    commit: Commit
    index: FlatIndex

    @property
    def catalog(self) -> str:
        """The name of the catalog."""
        return self.commit.table.partition("/")[0]

    @property
    def fingerprint(self) -> str:
        """That of the encoder."""
        return str(self.commit.properties[FINGERPRINT])

    @cached_property
    def _items(self) -> Indices:
        """The number of the item of each entry."""
        return self.index.entries["id"].rle_id().to_numpy().astype(np.int64)

    def positions_of(self, item: str) -> Indices:
        """The positions of an item's images."""
        ids = self.index.entries["id"]
        first, last = ids.search_sorted(item, "left"), ids.search_sorted(item, "right")
        return np.arange(first, last)

    def positions_with(self, sha256: str) -> Indices:
        """The positions of an image, which several items may have."""
        is_image: pl.Series = self.index.entries["sha256"] == sha256
        return is_image.arg_true().to_numpy().astype(np.int64)

    def nearest(self, queries: Floats, k: int, without: Collection[str] = ()) -> pl.DataFrame:
        """The items nearest to any of some vectors, by their nearest image.

        Args:
            queries: (n, dim) float32, the unit vectors of the images of one item.
            k: How many items, at most.
            without: Items that are left out.

        Returns:
            id, image, sha256, query_image, similarity and distance (Float64) and rank (Int32,
            from 1), sorted by rank. Similarities are computed in float64, ties are ordered by id.
        """
        entries = self.index.entries
        query, position = self._candidates(queries, k, without)
        vectors = self.index.vectors_at(position)
        similarity = pair_cosines(queries, vectors, query, np.arange(len(position)))
        rows = (
            entries[position]
            .select("id", IMAGE, "sha256")
            .with_columns(
                pl.Series("query_image", query, pl.Int32),
                pl.Series("similarity", similarity, pl.Float64),
            )
        )
        order = {"similarity": True, "id": False, IMAGE: False, "query_image": False}
        nearest = (
            rows.filter(~pl.col("id").is_in(list(without)))
            .sort(list(order), descending=list(order.values()))
            .unique("id", keep="first", maintain_order=True)
            .head(k)
        )
        return nearest.with_columns(
            pl.Series("distance", distances(nearest["similarity"].to_numpy()), pl.Float64),
            pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("rank"),
        )

    def _candidates(
        self, queries: Floats, k: int, without: Collection[str]
    ) -> tuple[Indices, Indices]:
        """Queries and positions of images, of at least k items for each query if there are."""
        items = k + len(without)
        count = items + _RESERVE
        while True:
            positions, _ = self.index.search(queries, min(count, len(self.index)))
            if count >= len(self.index) or self._has_items(positions, items):
                found = positions >= 0
                return np.nonzero(found)[0].astype(np.int64), positions[found]
            count *= _GROWTH

    def _has_items(self, positions: Indices, items: int) -> bool:
        """Whether every query found so many items, or everything that its lists have."""
        return all(
            (row < 0).any() or len(np.unique(self._items[row])) >= items for row in positions
        )


class IndexCache:
    """The indexes that were searched, shared by all views. Safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}
        self._indexes: dict[str, list[CatalogIndex]] = {}

    def get(self, store: Store, catalog: str) -> CatalogIndex:
        """The index of a catalog at the newest version of a (pinned) store.

        Raises:
            StoreError: There is none, or it is damaged.
        """
        table = store.table(f"{catalog}/index")
        commit = table.latest()
        if commit is None:
            raise StoreError(f"catalog {catalog} has no index yet; materialize {catalog}/index")
        found = self._find(catalog, commit)
        if found is not None:
            return found
        with self._lock:
            opening = self._opening.setdefault(catalog, threading.Lock())
        with opening:
            found = self._find(catalog, commit)
            return found if found is not None else self._open(store, catalog)

    def catalogs(self) -> list[str]:
        """The catalogs whose indexes are open."""
        with self._lock:
            return list(self._indexes)

    def close(self, catalog: str) -> None:
        """Forget the indexes of a catalog that the store no longer has."""
        with self._lock:
            self._indexes.pop(catalog, None)

    def _find(self, catalog: str, commit: Commit) -> CatalogIndex | None:
        with self._lock:
            opened = self._indexes.get(catalog, [])
            return next((one for one in opened if one.commit == commit), None)

    def _open(self, store: Store, catalog: str) -> CatalogIndex:
        commit, index = open_index(store, catalog)
        opened = CatalogIndex(commit, index)
        if len(index):
            # The first search would otherwise prepare what all of them use.
            opened.nearest(index.vectors_at(np.zeros(1, np.int64)), 1)
        with self._lock:
            kept = self._indexes.get(catalog, [])[: _MAX_VERSIONS - 1]
            self._indexes[catalog] = [opened, *kept]
        return opened
