"""The distinct images of catalogs: the rows that duplicate groups compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import polars as pl

from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.image_sets import image_key
from imgsim_assets.similarity.items import ORIENTATION, VALUE, Items
from imgsim_assets.similarity.vector_blocks import Part, VectorBlocks
from imgsim_assets.storage import row_blocks
from imgsim_assets.storage.sorted_rows import sorted_rows

_CATALOG, _ROW = "catalog", "row"


def distinct_images(catalogs: Sequence[Items]) -> Items:
    """One item for each distinct image of all catalogs, with its key as id, in their order.

    With `within`, an image whose items have several values is one for each of them. Of the rows of
    an image, the first one counts.
    """
    identity = ["id", *([ORIENTATION] if catalogs[0].is_turned else [])]
    parts = (
        part for number, items in reversed([*enumerate(catalogs)]) for part in _parts(items, number)
    )
    first = next(parts)
    distinct = sorted_rows(chain([first], parts), first.schema, identity)
    keys = distinct.map(_keys, _keys(first.clear()).schema)
    sources = distinct.read(0, len(distinct), [_CATALOG, _ROW])
    of_catalog, rows = sources[_CATALOG].to_numpy(), sources[_ROW].to_numpy()
    if len(catalogs) == 1:
        return Items(keys, catalogs[0].blocks.take(rows))
    positions = [np.flatnonzero(of_catalog == number) for number in range(len(catalogs))]
    vectors = [
        (chosen, catalog.blocks.take(rows[chosen]))
        for chosen, catalog in zip(positions, catalogs, strict=True)
    ]
    return Items(keys, VectorBlocks.from_parts(len(keys), _VectorsOfAll(vectors)))


def _parts(items: Items, number: int) -> Iterator[pl.DataFrame]:
    """The images of a catalog, the last ones first, since of equal keys the last one counts."""
    size = row_blocks.BLOCK_ROWS
    for start in reversed(range(0, max(1, len(items)), size)):
        block = items.images.read(start, start + size)
        rows = pl.int_range(start, start + block.height, dtype=pl.Int64, eager=True)
        yield block.select(
            image_key(block).alias("id"),
            "sha256",
            pl.col(f"^({VALUE}|{ORIENTATION})$"),
            pl.lit(number, pl.Int32).alias(_CATALOG),
            rows.alias(_ROW),
        ).reverse()


def _keys(distinct: pl.DataFrame) -> pl.DataFrame:
    rest = pl.col(f"^({VALUE}|{ORIENTATION})$")
    return distinct.select("id", pl.lit(0, pl.Int32).alias("image"), "sha256", rest)


@dataclass(frozen=True)
class _VectorsOfAll:
    """The vectors of the images of each catalog, and which of all images they are."""

    sources: Sequence[tuple[Indices, VectorBlocks]]

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        """As of `ReadParts`."""
        for positions, vectors in self.sources:
            chosen = np.arange(len(positions))
            if rows is not None:
                chosen = np.flatnonzero(np.isin(positions, rows))
            some = vectors if rows is None else vectors.select(chosen)
            for start, block in some.blocks():
                yield positions[chosen[start : start + len(block)]], block
