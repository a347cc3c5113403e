"""The images of items that may be in a group: of most catalogs, that is a small part of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.image_sets import image_key
from imgsim_assets.similarity.items import LEFT_OUT, Items
from imgsim_assets.storage.row_blocks import RowBlocks

Hashes = NDArray[np.uint64]


class GroupedImages(NamedTuple):
    """The images of items of which one has a link, or is an image of other items, or is decided.

    Attributes:
        rows: the images that are compared, in the order of the items.
        images: the distinct ones.
        turned: these in all orientations; None where all are compared upright.
        links: (p, 2) pairs of the distinct images, a < b, sorted.
    """

    rows: pl.DataFrame
    images: Items
    turned: Items | None
    links: Indices

    @classmethod
    def of(
        cls,
        ranked: RowBlocks,
        images: Items,
        turned: Items | None,
        links: Indices,
        decided: pl.Series,
    ) -> GroupedImages:
        """Those of all images.

        Args:
            ranked: the images of all items (id, image, sha256) in order, those left out too.
            images: the distinct ones that are compared, by key.
            turned: the same in all orientations.
            links: (p, 2) positions of distinct images.
            decided: the ids of items that people have decided about.
        """
        rows = _rows(ranked, _chosen_ids(ranked, images, links, decided))
        keys = rows.select(image_key(rows)).to_series().unique().sort()
        positions = images.row_numbers(keys)
        of_turned = None
        if turned is not None:
            of_each = len(ORIENTATIONS)
            of_turned = _taken(turned, (positions[:, None] * of_each + np.arange(of_each)).ravel())
        return cls(rows, _taken(images, positions), of_turned, np.searchsorted(positions, links))


def _chosen_ids(ranked: RowBlocks, images: Items, links: Indices, decided: pl.Series) -> pl.Series:
    """The ids of the items; where hashes of images agree, also of some others."""
    linked = images.images.gather(np.unique(links), ["id"])["id"].hash().to_numpy()
    hashes = np.concatenate([np.empty(0, np.uint64), linked, _repeated(ranked, len(images))])
    chosen = [decided]
    for _, block in ranked.blocks():
        is_chosen = np.isin(_hashes(block), hashes)
        chosen.append(_compared(block)["id"].filter(pl.Series(is_chosen)))
    return pl.concat(chosen).unique()


def _repeated(ranked: RowBlocks, distinct: int) -> Hashes:
    """The hashes of images that several rows have."""
    every = np.sort(np.concatenate([_hashes(block) for _, block in ranked.blocks()]))
    if len(every) == distinct:
        return every[:0]
    return np.unique(every[1:][every[1:] == every[:-1]])


def _hashes(block: pl.DataFrame) -> Hashes:
    rows = _compared(block)
    return rows.select(image_key(rows)).to_series().hash().to_numpy()


def _rows(ranked: RowBlocks, ids: pl.Series) -> pl.DataFrame:
    is_chosen = pl.col("id").is_in(ids.implode())
    return pl.concat(_compared(block).filter(is_chosen) for _, block in ranked.blocks())


def _compared(rows: pl.DataFrame) -> pl.DataFrame:
    """The images that are not left out."""
    return rows.filter(pl.col(LEFT_OUT).is_null()) if LEFT_OUT in rows.columns else rows


def _taken(items: Items, rows: Indices) -> Items:
    return Items(items.images.gather(rows), items.blocks.take(rows))
