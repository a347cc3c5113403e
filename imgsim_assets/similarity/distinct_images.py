"""The distinct images of catalogs: the rows that duplicate groups compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.image_sets import image_key
from imgsim_assets.similarity.items import ORIENTATION, VALUE, Items
from imgsim_assets.similarity.vector_blocks import Part, VectorBlocks

_CATALOG, _ROW = "catalog", "row"


def distinct_images(catalogs: Sequence[Items]) -> Items:
    """One item for each distinct image of all catalogs, with its key as id, in their order.

    With `within`, an image whose items have several values is one for each of them.
    """
    images = [
        catalog.keys.select(
            image_key(catalog.keys).alias("id"),
            "sha256",
            pl.col(f"^({VALUE}|{ORIENTATION})$"),
            pl.lit(number).alias(_CATALOG),
            pl.int_range(pl.len(), dtype=pl.Int64).alias(_ROW),
        )
        for number, catalog in enumerate(catalogs)
    ]
    identity = ["id", *([ORIENTATION] if catalogs[0].is_turned else [])]
    distinct = pl.concat(images).unique(identity, keep="first", maintain_order=True).sort(identity)
    of_catalog, rows = distinct[_CATALOG].to_numpy(), distinct[_ROW].to_numpy()
    keys = distinct.select(
        "id", pl.lit(0, pl.Int32).alias("image"), "sha256", pl.col(f"^({VALUE}|{ORIENTATION})$")
    )
    if len(catalogs) == 1:
        return Items(keys, catalogs[0].blocks.take(rows))
    positions = [np.flatnonzero(of_catalog == number) for number in range(len(catalogs))]
    sources = [
        (chosen, catalog.blocks.take(rows[chosen]))
        for chosen, catalog in zip(positions, catalogs, strict=True)
    ]
    return Items(keys, VectorBlocks.from_parts(keys.height, _VectorsOfAll(sources)))


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
