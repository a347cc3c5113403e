"""Pairs of rows as pairs of items: the nearest images of a query item and a reference item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from imgsim_assets.search.item_rows import ItemRows
from imgsim_assets.search.neighbors import Neighbors, SearchParams

QUERY = "query"
REFERENCE = "reference"
QUERY_IMAGE = "query_image"
REFERENCE_IMAGE = "reference_image"
ALTERNATIVE = "alternative"


def row_params(params: SearchParams, references: ItemRows, *, self_rows: int = 0) -> SearchParams:
    """The limits of a search for rows that finds the rows of every item within `params`.

    In the order of nearness, each row before the first row of an item belongs to an item that
    precedes it. The k nearest items therefore have a row among the (k - 1) * m + 1 nearest, where
    m is the largest number of images of an item.

    Args:
        params: the limits for items.
        references: the rows that are searched.
        self_rows: rows of each query that are searched and do not count.
    """
    if params.k is None:
        return params
    return replace(params, k=(params.k - 1) * max(references.max_images, 1) + 1 + self_rows)


def item_pairs(
    alternatives: Sequence[Neighbors], queries: ItemRows, references: ItemRows, k: int | None
) -> pl.DataFrame:
    """The k nearest items of each query item, over several searches of the same queries.

    A pair of items counts once, with its nearest pair of images. Ties go to the first query
    image, then to the first reference image, then to the first alternative.

    Returns:
        query, reference (positions of items), query_image, reference_image, distance and
        alternative (the position of the search), sorted by query, distance and reference.
    """
    pairs = pl.concat(
        _pairs(neighbors, queries, references, position)
        for position, neighbors in enumerate(alternatives)
    )
    if len(alternatives) > 1 or max(queries.max_images, references.max_images) > 1:
        images = (QUERY_IMAGE, REFERENCE_IMAGE, ALTERNATIVE)
        pairs = (
            pairs.sort(QUERY, REFERENCE, -pl.col("score"), *images)
            .unique(subset=[QUERY, REFERENCE], keep="first", maintain_order=True)
            .sort(QUERY, -pl.col("score"), REFERENCE)
        )
        if k is not None:
            pairs = pairs.filter(pl.int_range(pl.len()).over(QUERY) < k)
    return pairs.drop("score")


def _pairs(
    neighbors: Neighbors, queries: ItemRows, references: ItemRows, alternative: int
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            QUERY: queries.item[neighbors.query],
            REFERENCE: references.item[neighbors.reference],
            QUERY_IMAGE: queries.image[neighbors.query],
            REFERENCE_IMAGE: references.image[neighbors.reference],
            "distance": neighbors.distance,
            "score": neighbors.score,
            ALTERNATIVE: np.full(len(neighbors.query), alternative, np.int8),
        },
        schema_overrides={QUERY: pl.Int64, REFERENCE: pl.Int64, "distance": pl.Float64},
    )


def with_self(pairs: pl.DataFrame, rows: ItemRows) -> pl.DataFrame:
    """Add each item as its own first neighbor, at distance 0 by its first image."""
    first = rows.firsts
    own = Neighbors(first, first, np.zeros(len(first)), np.zeros(len(first)))
    added = _pairs(own, rows, rows, 0).drop("score")
    return pl.concat([added, pairs]).sort(QUERY, maintain_order=True)
