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
from imgsim_assets.encoders.vectors import REBUILDS
from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.index.stage import embedded_rows, index_rows, latest_index
from imgsim_assets.similarity.cosine import Floats, Indices
from imgsim_assets.similarity.join_input import JoinInput
from imgsim_assets.similarity.stored_vectors import (
    EmbeddedVectors,
    IndexedVectors,
    StoredVectors,
)
from imgsim_assets.similarity.vector_blocks import VectorBlocks
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.id_blocks import IdBlock, id_blocks
from imgsim_assets.storage.row_blocks import RowBlocks, begins_item, ids_ascend, item_count
from imgsim_assets.storage.sorted_rows import sorted_rows
from imgsim_assets.storage.store import Store

# Why an image is not compared; null for images that are.
LEFT_OUT = "left_out"
# What the items of a pair agree in, where `within` asks for it.
VALUE = "value"
# The orientation of a row's image, by its number in ORIENTATIONS; absent where all are upright.
ORIENTATION = "orientation"
_SEPARATOR = "\0"
_DIGITS = 4


@dataclass(frozen=True, init=False)
class Items:
    """Images of items with their vectors.

    `images` has the columns id, image and sha256, and `blocks` are their unit vectors (n, d) in the
    same order: by id and image as they are read, by id and sha256 as they are compared.
    `source` has all images that were read, where some are not compared: id, image, sha256 and, if
    any is left out, left_out, which says why. With `within`, images have the column value, too.
    With `orientations`, each image has a row for each of its orientations, in their order.
    """

    images: RowBlocks
    blocks: VectorBlocks
    source: RowBlocks | None = None

    def __init__(
        self,
        images: pl.DataFrame | RowBlocks,
        vectors: Floats | VectorBlocks,
        source: pl.DataFrame | RowBlocks | None = None,
    ) -> None:
        """Rows are in a frame or in blocks; vectors are an array (n, d), or are read later."""
        blocks = vectors if isinstance(vectors, VectorBlocks) else VectorBlocks.of(vectors)
        rows = _in_blocks(images)
        of_source = None if source is None else _in_blocks(source)
        for name, value in (("images", rows), ("blocks", blocks), ("source", of_source)):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the cached properties, which may hold vectors.
        return Items, (self.images, self.blocks, self.source)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def keys(self) -> pl.DataFrame:
        """All images at once, for few of them."""
        return self.images.all()

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
        if ids_ascend(self.images):
            return np.arange(len(self))
        begins = np.empty(len(self), dtype=bool)
        last: str | None = None
        for start, rows in self.images.blocks(["id"]):
            begins[start : start + rows.height] = begins_item(rows["id"], last)
            last = rows["id"][-1] if rows.height else None
        return np.cumsum(begins) - 1

    @cached_property
    def first_rows(self) -> Indices:
        """The first row of each item."""
        if ids_ascend(self.images):
            return self.numbers
        return np.flatnonzero(np.diff(self.numbers, prepend=-1))

    @property
    def ids(self) -> pl.Series:
        """The id of each item."""
        return self.images.gather(self.first_rows, ["id"])["id"]

    def spans(self, ids: pl.Series) -> tuple[Indices, Indices]:
        """The first row of each item (p,) of some ids, in any order, and how many rows it has."""
        return self.spans_of(self.ids.search_sorted(ids).to_numpy().astype(np.int64))

    def spans_of(self, numbers: Indices) -> tuple[Indices, Indices]:
        """The first row of each of some items (p,), by number, and how many rows it has."""
        if ids_ascend(self.images):
            return numbers, np.ones_like(numbers)
        return self.first_rows[numbers], np.bincount(self.numbers)[numbers]

    @property
    def count(self) -> int:
        """How many items there are."""
        return item_count(self.images)

    @cached_property
    def max_images(self) -> int:
        """The largest number of rows of an item, at least 1."""
        return int(np.bincount(self.numbers).max()) if self.count < len(self) else 1

    @cached_property
    def id_blocks(self) -> list[IdBlock]:
        """The rows in blocks of whole items."""
        return id_blocks(self.images)

    def row_numbers(self, row_ids: pl.Series) -> Indices:
        """The numbers of the rows with some ids (as of `row_blocks`), both ascending."""
        return np.concatenate([numbers for numbers, _ in self._found(row_ids)])

    def images_of(self, row_ids: pl.Series) -> pl.DataFrame:
        """The images of some rows (ids as of `row_blocks`), each once, in their order.

        Returns:
            row_id, its number as `row`, and the columns of `images`.
        """
        return pl.concat(
            self.images.gather(numbers).with_columns(ids.alias("row_id"), pl.Series("row", numbers))
            for numbers, ids in self._found(row_ids.unique().sort())
        )

    def _found(self, row_ids: pl.Series) -> Iterator[tuple[Indices, pl.Series]]:
        """The numbers of the rows with some ids, ascending, and their ids; at least one part."""
        for start, rows in self.row_blocks.blocks(["id"]):
            ids = rows["id"]
            count = row_ids.search_sorted(ids[-1], side="right") if len(ids) else 0
            is_found = ids.is_in(row_ids[:count].implode())
            yield start + np.flatnonzero(is_found.to_numpy()), ids.filter(is_found)
            row_ids = row_ids[count:]
            if not len(row_ids):
                return

    @cached_property
    def row_blocks(self) -> RowBlocks:
        """What identifies each row: its key as `id`, and the columns that it depends on."""
        return row_keys(self.images)

    @property
    def rows(self) -> pl.DataFrame:
        """`row_blocks` at once, for few of them."""
        return self.row_blocks.all()

    @property
    def recorded(self) -> RowBlocks:
        """What a result records of its input: all images, those left out too."""
        return self.images if self.source is None else self.source

    @property
    def is_turned(self) -> bool:
        """Whether each image has a row for each of its orientations."""
        return ORIENTATION in self.images.columns

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
        return Items(self.images.read(start, stop), self.blocks.slice(start, stop))

    def where(self, mask: NDArray[np.bool_]) -> Items:
        """The rows of a mask (n,), in their order."""
        rows = np.flatnonzero(mask)
        return Items(self.keys.filter(pl.Series(mask)), self.blocks.take(rows), self.source)


def _in_blocks(rows: pl.DataFrame | RowBlocks) -> RowBlocks:
    return rows if isinstance(rows, RowBlocks) else RowBlocks.of(rows)


def row_keys(images: RowBlocks) -> RowBlocks:
    """The rows of images (id, image, sha256) that are sorted by id and sha256, without `image`.

    Where an item has several images, `id` becomes the row's key.
    """
    schema = pl.Schema({name: of for name, of in images.schema.items() if name != "image"})
    if ids_ascend(images):
        return images.select(schema.names())
    parts = (
        _row_keys(images.read(block.start, block.stop)).select(schema.names())
        for block in id_blocks(images)
    )
    return RowBlocks.collect(parts, schema)


def _row_keys(images: pl.DataFrame) -> pl.DataFrame:
    """`row_keys` of all images of some items."""
    rows = images.drop("image", strict=False)
    follows = (pl.col("id") == pl.col("id").shift()).fill_null(value=False)
    if not rows.select(follows.any()).item():
        return rows
    number = pl.int_range(pl.len()).over(pl.col("id").rle_id())
    text = number.cast(pl.String).str.zfill(_DIGITS)
    key = pl.concat_str(pl.col("id"), pl.lit(_SEPARATOR), text)
    return rows.with_columns(pl.when(follows).then(key).otherwise(pl.col("id")).alias("id"))


def recorded_rows(recorded: RowBlocks, *, turned: bool = False) -> RowBlocks:
    """The rows of `Items.recorded` that were compared, as of `Items.row_blocks`.

    `turned` says whether each image was compared in all its orientations.
    """
    if LEFT_OUT in recorded.columns:
        kept = pl.Schema({name: of for name, of in recorded.schema.items() if name != LEFT_OUT})
        recorded = recorded.map(
            lambda block: block.filter(pl.col(LEFT_OUT).is_null()).drop(LEFT_OUT), kept
        )
    if not ids_ascend(recorded):
        of_items = (recorded.read(block.start, block.stop) for block in id_blocks(recorded))
        recorded = sorted_rows(of_items, recorded.schema, ["id", "sha256"])
    return row_keys(RowBlocks.of(turned_keys(recorded.all())) if turned else recorded)


def turned_keys(keys: pl.DataFrame) -> pl.DataFrame:
    """A row for each orientation of each image, in the order of the images."""
    count = len(ORIENTATIONS)
    rows = keys.select(pl.all().gather(np.repeat(np.arange(keys.height), count)))
    numbers = np.tile(np.arange(count, dtype=np.int8), keys.height)
    return rows.with_columns(pl.Series(ORIENTATION, numbers))


def with_vectors(
    store: Store, name: str, fingerprint: str, images: pl.DataFrame | RowBlocks
) -> Items:
    """Images (id, image, sha256; sorted by id) with their vectors of an encoder fingerprint.

    Vectors are read when they are needed, which raises StoreError for missing or damaged ones.
    """
    rows = _in_blocks(images)
    parts = StoredVectors(store, name, fingerprint, rows)
    return Items(rows, VectorBlocks.from_parts(len(rows), parts))


def from_embeddings(store: Store, name: str) -> tuple[Commit, Items]:
    """The latest embeddings commit of a catalog, and its images, by id and image.

    Vectors are read when they are needed, as of `with_vectors`.

    Raises:
        StoreError: when there is none, or when it mixes several encoders.
    """
    commit, images = embedded_rows(store, name)
    stored = StoredVectors(store, name, commit.properties[FINGERPRINT], images)
    parts = EmbeddedVectors(stored)
    return commit, Items(images, VectorBlocks.from_parts(len(images), parts))


def from_index(store: Store, name: str) -> tuple[Commit, Items]:
    """The latest index commit of a catalog, and its images, by id and image.

    Vectors are read when they are needed, which raises CorruptFileError for a damaged index file.

    Raises:
        StoreError: when there is none.
        CorruptFileError: when the table of its entries is damaged.
    """
    commit = latest_index(store, name)
    images = index_rows(store, name, commit)
    parts = IndexedVectors(store, name, commit.version)
    blocks = VectorBlocks.from_parts(len(images), parts, random_access=True)
    return commit, Items(images, blocks)


def vector_rebuilds(*counts: int) -> dict[str, list[int]]:
    """The part of a recipe about damaged vectors that were recomputed: a count for each input.

    Empty while all counts are 0, so that the recipe stays as it was before the first rebuild.
    """
    return {REBUILDS: list(counts)} if any(counts) else {}
