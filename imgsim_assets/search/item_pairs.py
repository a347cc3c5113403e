"""Pairs of rows as pairs of items: the nearest images of a query item and a reference item.

The columns are those of `similarity.item_pairs`: left is the query, right the reference, ids are
positions of items, and similarity is the score of `Neighbors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from imgsim_assets.search.item_rows import ItemRows
from imgsim_assets.search.neighbors import Metric, Neighbors, SearchParams
from imgsim_assets.similarity.cosine import Floats, distances
from imgsim_assets.similarity.item_pairs import best_images, best_of_each
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.mean_best import mean_best

QUERY = "left_id"
REFERENCE = "right_id"
ALTERNATIVE = "alternative"
_IMAGES = ("left_image", "right_image")


def row_params(params: SearchParams, references: ItemRows, *, self_rows: int = 0) -> SearchParams:
    """The limits of a search for rows that finds the rows of every item within `params`.

    In the order of nearness, each row before the first row of an item belongs to an item that
    precedes it. The k nearest items therefore have a row among the (k - 1) * m + 1 nearest, where
    m is the largest number of images of an item. A mean over images has no such order.

    Args:
        params: the limits for items.
        references: the rows that are searched.
        self_rows: rows of each query that are searched and do not count.
    """
    if params.k is None or params.compare == "mean_best":
        return replace(params, k=None)
    return replace(params, k=(params.k - 1) * max(references.max_images, 1) + 1 + self_rows)


def item_pairs(
    alternatives: Sequence[Neighbors], queries: ItemRows, references: ItemRows, k: int | None
) -> pl.DataFrame:
    """The k nearest items of each query item, over several searches of the same queries.

    A pair of items counts once, with its nearest pair of images. Ties go to the first query
    image, then to the first reference image, then to the first alternative.

    Returns:
        left_id, right_id, left_image, right_image, similarity, distance and alternative (the
        position of the search), sorted by left_id, falling similarity and right_id.
    """
    pairs = pl.concat(
        _pairs(neighbors, queries, references, position)
        for position, neighbors in enumerate(alternatives)
    )
    if len(alternatives) > 1 or max(queries.max_images, references.max_images) > 1:
        pairs = best_of_each(best_images(pairs, [*_IMAGES, ALTERNATIVE]), k)
    return pairs


def _pairs(
    neighbors: Neighbors, queries: ItemRows, references: ItemRows, alternative: int
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            QUERY: queries.item[neighbors.query],
            REFERENCE: references.item[neighbors.reference],
            "left_image": queries.image[neighbors.query],
            "right_image": references.image[neighbors.reference],
            "similarity": neighbors.score,
            "distance": neighbors.distance,
            ALTERNATIVE: np.full(len(neighbors.query), alternative, np.int8),
        },
        schema_overrides={QUERY: pl.Int64, REFERENCE: pl.Int64, "distance": pl.Float64},
    )


def by_mean_best(
    pairs: pl.DataFrame,
    queries: tuple[ItemRows, Floats],
    references: tuple[ItemRows, Floats],
    metric: Metric,
    params: SearchParams,
) -> pl.DataFrame:
    """All pairs within a radius, by the mean over the query images of the best reference image.

    Args:
        pairs: those of `item_pairs` within the radius.
        queries: the rows and unit vectors of the queries.
        references: the rows and unit vectors of the references.
        metric: of the distance.
        params: the limits for items.
    """
    left, right = (
        Items(pl.DataFrame({"id": rows.item, "image": rows.image}), vectors)
        for rows, vectors in (queries, references)
    )
    scored = mean_best(pairs, left, right, -1.0)
    similarity = scored["similarity"].to_numpy()
    distance = distances(similarity) if metric == "euclidean" else 1.0 - similarity
    scored = scored.with_columns(pl.Series("distance", distance))
    return best_of_each(scored.filter(pl.col("distance") <= params.radius), params.k)


def with_self(pairs: pl.DataFrame, rows: ItemRows) -> pl.DataFrame:
    """Add each item as its own first neighbor, at distance 0 by its first image."""
    first = rows.firsts
    own = Neighbors(first, first, np.zeros(len(first)), np.zeros(len(first)))
    return pl.concat([_pairs(own, rows, rows, 0), pairs]).sort(QUERY, maintain_order=True)
