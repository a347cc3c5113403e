"""A catalog's images with their vectors, by item, and how they are read from the store.

A join compares rows, one for each image of an item. A row is named by a key that does not depend on
the order of the item's images: the id for the first of them by sha256, and the id, a null character
and a number for the others. Ids hold no control characters, so keys sort by id first.
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
from imgsim_assets.encoders.vectors import REBUILDS, VectorTable
from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.index.stage import embedded_images, index_table, latest_index, open_index
from imgsim_assets.similarity.cosine import Floats, Indices
from imgsim_assets.similarity.join_input import JoinInput
from imgsim_assets.similarity.vector_blocks import Part, VectorBlocks
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store

# Why an image is not compared; null for images that are.
LEFT_OUT = "left_out"
# What the items of a pair agree in, where `within` asks for it.
VALUE = "value"
# The orientation of a row's image, by its number in ORIENTATIONS; absent where all are upright.
ORIENTATION = "orientation"
_KEYS = ["id", "image", "sha256"]
_SEPARATOR = "\0"
_DIGITS = 4


@dataclass(frozen=True, init=False)
class Items:
    """Images of items with their vectors.

    `keys` has the columns id, image and sha256, and `blocks` are their unit vectors (n, d) in the
    same order: by id and image as they are read, by id and sha256 as they are compared.
    `source` has all images that were read, where some are not compared: id, image, sha256 and, if
    any is left out, left_out, which says why. With `within`, keys have the column value, too. With
    `orientations`, each image has a row for each of its orientations, in their order.
    """

    keys: pl.DataFrame
    blocks: VectorBlocks
    source: pl.DataFrame | None = None

    def __init__(
        self,
        keys: pl.DataFrame,
        vectors: Floats | VectorBlocks,
        source: pl.DataFrame | None = None,
    ) -> None:
        """Vectors are an array (n, d), or are read when they are needed."""
        blocks = vectors if isinstance(vectors, VectorBlocks) else VectorBlocks.of(vectors)
        for name, value in (("keys", keys), ("blocks", blocks), ("source", source)):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the cached properties, which may hold vectors.
        return Items, (self.keys, self.blocks, self.source)

    def __len__(self) -> int:
        return self.keys.height

    @property
    def vectors(self) -> Floats:
        """All vectors (n, d) at once, for few items."""
        return self.blocks.all()

    @cached_property
    def join_input(self) -> JoinInput:
        """All vectors, validated, with equal rows grouped, for few items."""
        return JoinInput.of(self.vectors, "vectors")

    @cached_property
    def numbers(self) -> Indices:
        """The number of each row's item, (n,), from 0 in the order of ids."""
        numbers: Indices = self.keys["id"].rle_id().cast(pl.Int64).to_numpy()
        return numbers

    @cached_property
    def first_rows(self) -> Indices:
        """The first row of each item."""
        return np.flatnonzero(np.diff(self.numbers, prepend=-1))

    @property
    def ids(self) -> pl.Series:
        """The id of each item."""
        return self.keys["id"].gather(self.first_rows)

    @property
    def count(self) -> int:
        """How many items there are."""
        return int(self.numbers[-1]) + 1 if len(self) else 0

    @cached_property
    def max_images(self) -> int:
        """The largest number of rows of an item, at least 1."""
        return int(np.bincount(self.numbers).max()) if self.count < len(self) else 1

    @cached_property
    def rows(self) -> pl.DataFrame:
        """What identifies each row: its key as `id`, and the columns that it depends on."""
        return row_keys(self.keys)

    @property
    def recorded(self) -> pl.DataFrame:
        """What a result records of its input: all images, those left out too."""
        return self.keys if self.source is None else self.source

    @property
    def is_turned(self) -> bool:
        """Whether each image has a row for each of its orientations."""
        return ORIENTATION in self.keys.columns

    @property
    def upright(self) -> Items:
        """Each image once, as it is."""
        if not self.is_turned:
            return self
        count = len(ORIENTATIONS)
        keys = self.keys.gather_every(count).drop(ORIENTATION)
        return Items(keys, self.blocks.take(np.arange(0, len(self), count)), self.source)

    def values(self, mask: NDArray[np.bool_] | None) -> pl.DataFrame:
        """The numbers of the rows of a mask (n,), None for all, and their values."""
        rows = self.keys.select(pl.int_range(pl.len(), dtype=pl.Int64).alias("row"), VALUE)
        return rows if mask is None else rows.filter(pl.Series(mask))

    def slice(self, start: int, stop: int) -> Items:
        """The rows from `start` to `stop`, which are all rows of their items."""
        return Items(self.keys[start:stop], self.blocks.slice(start, stop))

    def where(self, mask: NDArray[np.bool_]) -> Items:
        """The rows of a mask (n,), in their order."""
        rows = np.flatnonzero(mask)
        return Items(self.keys.filter(pl.Series(mask)), self.blocks.take(rows), self.source)


def row_keys(keys: pl.DataFrame) -> pl.DataFrame:
    """The rows of images (id, image, sha256) that are sorted by id and sha256, without `image`.

    Where an item has several images, `id` becomes the row's key.
    """
    rows = keys.drop("image", strict=False)
    follows = (pl.col("id") == pl.col("id").shift()).fill_null(value=False)
    if not rows.select(follows.any()).item():
        return rows
    number = pl.int_range(pl.len()).over(pl.col("id").rle_id())
    text = number.cast(pl.String).str.zfill(_DIGITS)
    key = pl.concat_str(pl.col("id"), pl.lit(_SEPARATOR), text)
    return rows.with_columns(pl.when(follows).then(key).otherwise(pl.col("id")).alias("id"))


def recorded_rows(recorded: pl.DataFrame, *, turned: bool = False) -> pl.DataFrame:
    """The rows of `Items.recorded` that were compared, as of `Items.rows`.

    `turned` says whether each image was compared in all its orientations.
    """
    if LEFT_OUT in recorded.columns:
        recorded = recorded.filter(pl.col(LEFT_OUT).is_null()).drop(LEFT_OUT)
    if not recorded["id"].is_sorted() or recorded["id"].n_unique() < recorded.height:
        recorded = recorded.sort("id", "sha256")
    return row_keys(turned_keys(recorded) if turned else recorded)


def turned_keys(keys: pl.DataFrame) -> pl.DataFrame:
    """A row for each orientation of each image, in the order of the images."""
    count = len(ORIENTATIONS)
    rows = keys.select(pl.all().gather(np.repeat(np.arange(keys.height), count)))
    numbers = np.tile(np.arange(count, dtype=np.int8), keys.height)
    return rows.with_columns(pl.Series(ORIENTATION, numbers))


@dataclass(frozen=True)
class StoredVectors:
    """The vectors of images (sha256) in the table of an encoder, read one file at a time."""

    store: Store
    name: str
    fingerprint: str
    sha256: pl.Series

    def __call__(self) -> Iterator[Part]:
        """All vectors, in parts; StoreError as of `VectorTable.read_rows`."""
        yield from VectorTable(self.store, self.name, self.fingerprint).read_rows(self.sha256)


@dataclass(frozen=True)
class IndexedVectors:
    """The vectors of a version of a catalog's index, in the order of its entries."""

    store: Store
    name: str
    version: int

    def __call__(self) -> Iterator[Part]:
        """All vectors, in parts; CorruptFileError for a damaged file."""
        _, index = open_index(self.store, self.name, version=self.version)
        yield from index.parts()


def with_vectors(store: Store, name: str, fingerprint: str, keys: pl.DataFrame) -> Items:
    """Images (id, image, sha256; sorted by id) with their vectors of an encoder fingerprint.

    Vectors are read when they are needed, which raises StoreError for missing or damaged ones.
    """
    parts = StoredVectors(store, name, fingerprint, keys["sha256"])
    return Items(keys, VectorBlocks.from_parts(keys.height, parts))


def from_embeddings(store: Store, name: str) -> tuple[Commit, Items]:
    """The latest embeddings commit of a catalog, and its images, by id and image.

    Vectors are read when they are needed, as of `with_vectors`.

    Raises:
        StoreError: when there is none, or when it mixes several encoders.
    """
    commit, keys = embedded_images(store, name)
    return commit, with_vectors(store, name, commit.properties[FINGERPRINT], keys.select(_KEYS))


def from_index(store: Store, name: str) -> tuple[Commit, Items]:
    """The latest index commit of a catalog, and its images, by id and image.

    Vectors are read when they are needed, which raises CorruptFileError for a damaged index file.

    Raises:
        StoreError: when there is none.
        CorruptFileError: when the table of its entries is damaged.
    """
    commit = latest_index(store, name)
    keys = index_table(store, name).read(commit).select(_KEYS)
    parts = IndexedVectors(store, name, commit.version)
    return commit, Items(keys, VectorBlocks.from_parts(keys.height, parts))


def vector_rebuilds(*counts: int) -> dict[str, list[int]]:
    """The part of a recipe about damaged vectors that were recomputed: a count for each input.

    Empty while all counts are 0, so that the recipe stays as it was before the first rebuild.
    """
    return {REBUILDS: list(counts)} if any(counts) else {}
