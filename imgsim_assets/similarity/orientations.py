"""Comparison over orientations: the left image of a pair is turned, and the best one counts.

A left item has a row for each orientation of each of its images, so that joins, neighbor lists and
updates need not know of orientations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.turned_vectors import TurnedVectors, turned_tables
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.progress import Log, silent
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.items import ORIENTATION, Items, turned_keys
from imgsim_assets.similarity.join import cosine_matrix
from imgsim_assets.similarity.listed_images import ListedImages, row_of_each
from imgsim_assets.similarity.materialized import ORIENTATIONS_PROPERTY
from imgsim_assets.similarity.vector_blocks import Part, VectorBlocks, cosines
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store

# Property of a result: how often damaged vectors of turned images were dropped, if ever.
TURNED_REBUILDS = "turned_vector_rebuilds"
NAMES = [each.name for each in ORIENTATIONS]
# By number, the number of the orientation that undoes it.
_INVERSE = np.array([ORIENTATIONS.index(each.inverse) for each in ORIENTATIONS], dtype=np.int8)


class TurnedCatalogs:
    """The images of catalogs in all orientations.

    Args:
        store: holds the catalogs.
        encoders: by catalog the encoder as declared, which says where to compute; the recorded
            one for a catalog that is not named.
        log: receives progress messages.
    """

    def __init__(
        self,
        store: Store,
        encoders: Mapping[str, EncoderSettings] | None = None,
        *,
        log: Log = silent,
    ) -> None:
        self._store, self._encoders, self._log = store, encoders or {}, log
        self._catalogs: dict[str, TurnedVectors] = {}

    def of(self, name: str, embeddings: Commit) -> TurnedVectors:
        """The turned vectors of a catalog, of whose embeddings or index a commit is given."""
        if name not in self._catalogs:
            encoder = self._encoders.get(name)
            self._catalogs[name] = TurnedVectors(
                self._store, name, embeddings, encoder, log=self._log
            )
        return self._catalogs[name]

    def turned(self, name: str, embeddings: Commit, items: Items) -> Items:
        """Images of a catalog, each in all orientations; vectors that are missing are computed."""
        vectors = self.of(name, embeddings)
        images = items.keys["sha256"].unique().sort().to_list()
        fingerprint = embeddings.properties[FINGERPRINT]
        vectors.ensure(images)
        try:
            return _opened(stored_turned(self._store, name, fingerprint, items))
        except StoreError:
            # Damaged vectors have left their table.
            vectors.ensure(images)
            return _opened(stored_turned(self._store, name, fingerprint, items))

    def recipe(self, catalogs: Mapping[str, Commit]) -> dict[str, Any]:
        """What a result depends on whose images of some catalogs are turned; all null for none."""
        rebuilds = sum(self.of(name, commit).rebuild_count for name, commit in catalogs.items())
        recorded = {TURNED_REBUILDS: rebuilds} if rebuilds else {}
        return {ORIENTATIONS_PROPERTY: True if catalogs else None, **recorded}

    @property
    def encoded(self) -> int:
        """How many images were encoded in other orientations."""
        return sum(each.encoded for each in self._catalogs.values())


@dataclass(frozen=True)
class StoredTurnedVectors:
    """The vectors of images (sha256) in all orientations, a row for each, read file by file."""

    store: Store
    name: str
    fingerprint: str
    sha256: pl.Series

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        """As of `ReadParts`; StoreError as of `VectorTable.read_rows`."""
        upright = VectorTable(self.store, self.name, self.fingerprint)
        tables = [upright, *turned_tables(self.store, self.name, self.fingerprint)]
        for number, table in enumerate(tables):
            images = np.arange(len(self.sha256))
            if rows is not None:
                images = rows[rows % len(tables) == number] // len(tables)
            sha256 = RowBlocks.of(self.sha256.gather(images).to_frame())
            for found, vectors in table.read_rows(sha256):
                yield images[found] * len(tables) + number, vectors


def stored_turned(store: Store, name: str, fingerprint: str, items: Items) -> Items:
    """Images of a catalog, each in all orientations, of which the store has all vectors.

    Vectors are read when they are needed, which raises StoreError for missing or damaged ones.
    """
    parts = StoredTurnedVectors(store, name, fingerprint, items.keys["sha256"])
    blocks = VectorBlocks.from_parts(len(items) * len(ORIENTATIONS), parts)
    return Items(turned_keys(items.keys), blocks, items.recorded)


def _opened(items: Items) -> Items:
    """The items, whose vectors are read now."""
    items.blocks.open()
    return items


class BestOrientation(NamedTuple):
    """The best cosine (p,) of pairs of images, and the number of the orientation that gives it."""

    cosine: Doubles
    orientation: Indices


def best_orientations(
    turned: VectorBlocks, upright: VectorBlocks, i: Indices, j: Indices
) -> BestOrientation:
    """Compare images i (p,) in all orientations with upright images j; ties go to the first.

    Args:
        turned: a row for each orientation of each image.
        upright: a row for each image.
        i: the images that are turned.
        j: the images that are not.
    """
    count = len(ORIENTATIONS)
    best = np.full(len(i), -np.inf)
    orientation = np.zeros(len(i), dtype=np.int64)
    for number in range(count):
        scores = cosines(turned, upright, i * count + number, j)
        better = scores > best
        best[better], orientation[better] = scores[better], number
    return BestOrientation(best, orientation)


def best_cosine_matrix(left: Items, right: Items) -> Doubles:
    """All cosines (n, m) of two small sets of images, the left ones in their best orientation."""
    scores = cosine_matrix(left.vectors, right.vectors)
    if not left.is_turned:
        return scores
    best: Doubles = scores.reshape(-1, len(ORIENTATIONS), len(right)).max(axis=1)
    return best


def inverse(orientation: Indices) -> Indices:
    """The numbers of the orientations that undo these."""
    undone: Indices = _INVERSE[orientation].astype(np.int64)
    return undone


def best_of_images(
    rows: pl.DataFrame, left: Items, right: Items | ListedImages, k: int | None
) -> pl.DataFrame:
    """Of pairs of rows the best of each pair of images, and at most k of each left image.

    Args:
        rows: left_id, right_id (keys of rows) and similarity.
        left: the left rows.
        right: the right rows, or those of the pairs; one side is turned.
        k: how many right images a left image keeps, the most similar first; None for all.
    """
    pairs = rows
    for side, items in (("left", left), ("right", right)):
        count = len(ORIENTATIONS) if items.is_turned else 1
        number = row_of_each(items, rows[f"{side}_id"])
        pairs = pairs.with_columns(
            pl.Series(f"_{side}", number // count),
            pl.Series(f"_{side}_{ORIENTATION}", number % count),
        )
    order = ["_left", "similarity", "_right", f"_left_{ORIENTATION}", f"_right_{ORIENTATION}"]
    ordered = pairs.sort(order, descending=[False, True, False, False, False])
    best = ordered.unique(["_left", "_right"], keep="first", maintain_order=True)
    if k is not None:
        best = best.filter(pl.int_range(pl.len()).over("_left") < k)
    return best.select(rows.columns)


def with_names(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs with the names of orientations in place of their numbers."""
    if ORIENTATION not in pairs.columns:
        return pairs
    names = pl.Series(NAMES, dtype=pl.String)
    return pairs.with_columns(names.gather(pairs[ORIENTATION]).alias(ORIENTATION))
