"""A catalog's items with their vectors, and how they are read from the store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.vectors import REBUILDS, VectorTable
from imgsim_assets.index.stage import embedded_images, open_index, vectors_of
from imgsim_assets.similarity.cosine import Floats
from imgsim_assets.similarity.join_input import JoinInput
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store


@dataclass(frozen=True)
class Items:
    """Items with their vectors: `keys` has the columns id and sha256, sorted by id.

    `vectors` is (n, d) float32 with unit rows, in the same order.
    """

    keys: pl.DataFrame
    vectors: Floats

    def __len__(self) -> int:
        return self.keys.height

    @cached_property
    def join_input(self) -> JoinInput:
        """The vectors, validated, with equal rows grouped."""
        return JoinInput.of(self.vectors, "vectors")

    def where(self, mask: NDArray[np.bool_]) -> Items:
        """The items of a mask (n,), in their order."""
        return Items(self.keys.filter(pl.Series(mask)), self.vectors[mask])


def with_vectors(store: Store, name: str, fingerprint: str, keys: pl.DataFrame) -> Items:
    """Items (id, sha256; sorted by id) with their vectors of an encoder fingerprint."""
    return Items(keys, vectors_of(VectorTable(store, name, fingerprint), keys["sha256"]))


def from_embeddings(store: Store, name: str) -> tuple[Commit, Items]:
    """The latest embeddings commit of a catalog, and its items.

    Raises:
        StoreError: when there is none, or when it mixes several encoders.
    """
    commit, images = embedded_images(store, name)
    keys = images.select("id", "sha256")
    return commit, with_vectors(store, name, commit.properties[FINGERPRINT], keys)


def from_index(store: Store, name: str) -> tuple[Commit, Items]:
    """The latest index commit of a catalog, and its items.

    Raises:
        StoreError: when there is none.
        CorruptFileError: when the index file is damaged.
    """
    commit, index = open_index(store, name)
    return commit, Items(index.entries.select("id", "sha256"), index.vectors())


def vector_rebuilds(*counts: int) -> dict[str, list[int]]:
    """The part of a recipe about damaged vectors that were recomputed: a count for each input.

    Empty while all counts are 0, so that the recipe stays as it was before the first rebuild.
    """
    return {REBUILDS: list(counts)} if any(counts) else {}
