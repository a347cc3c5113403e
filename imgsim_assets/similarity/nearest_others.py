"""The nearest different items of every item of a catalog: the pairs that must not match.

Two items are different unless they share an image: the same file, or another file of the same
pixels, which has an equal vector; unless a caller knows that they show the same; and, where images
are compared a second time, unless those align. Several images of one item are never a pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
import polars as pl

from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.knn import nearest

# Others of each item: enough that a resample of the catalog nearly always has one of them.
DEPTH = 8
# Items that are listed of those that share one image, such as a placeholder.
_MAX_SHARED = DEPTH
# More pairs of one item than this are not excluded one by one.
_MAX_EXCLUDED = 64
# Aligned others of each item that are looked behind.
_MAX_ALIGNED = 16
# The fraction of the items, those with the most similar others, whose others are compared again: a
# little more than the tail to which thresholds are fitted.
_COMPARED = 0.25
_VECTORS = ["vector", "other_vector"]
_PAIRS = {"left_id": pl.String, "right_id": pl.String}


@dataclass(frozen=True)
class NearestOthers:
    """The nearest different items of n items.

    Attributes:
        similarity: (n, DEPTH) cosines, the greatest first; -inf where there are fewer.
        other: (n, DEPTH) clusters of the other items; -1 where there are fewer.
        cluster: (n,) numbers of groups of items that share their first vector.
    """

    similarity: Doubles
    other: Indices
    cluster: Indices

    def __len__(self) -> int:
        return len(self.cluster)

    @property
    def clusters(self) -> int:
        """The number of different clusters."""
        return len(np.unique(self.cluster))


def nearest_others(
    items: Items,
    same: pl.DataFrame | None = None,
    turned: Items | None = None,
    aligned: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
) -> NearestOthers:
    """Compare all items of a catalog, each with all others.

    Args:
        items: the images of the items, one row each.
        same: left_id and right_id of further pairs of items that are known to be no false
            matches, in either order.
        turned: the images in all orientations, of which the best counts; None for upright only.
        aligned: returns those of some pairs of images (left_sha256, right_sha256) that show the
            same. It is asked about the most similar pairs only, until none of them does.
    """
    ids = items.keys["id"].unique().sort()
    if not len(ids):
        empty = np.empty((0, DEPTH))
        return NearestOthers(empty, empty.astype(np.int64), np.empty(0, np.int64))
    unique = items.join_input.unique
    vector_of_row = np.empty(len(items), np.int64)
    vector_of_row[unique.rows] = np.repeat(np.arange(len(unique.first)), unique.counts)
    images = pl.DataFrame(
        {"item": ids.search_sorted(items.keys["id"]), "vector": vector_of_row},
        schema={"item": pl.Int64, "vector": pl.Int64},
    ).unique(maintain_order=True)
    clusters = images.group_by("item").agg(pl.col("vector").min()).sort("item")
    excluded = _pairs_that_share(images)
    if same is not None:
        excluded = pl.concat([excluded, _positions(same, ids)]).unique()
    # An item's own images and those of excluded items may be nearer than any other, and each of
    # the nearest items may take as many places as it has images.
    own = _largest_count(images, "item")
    depth = own * (DEPTH + min(_largest_count(excluded, "item"), _MAX_EXCLUDED))
    depth += own * _MAX_ALIGNED if aligned is not None else 0
    lists = _neighbors(items.join_input, turned, depth)
    ranked = _rank_others(images, lists, excluded, clusters)
    if aligned is not None:
        sha256 = items.keys["sha256"].gather(unique.first)
        compared = ranked.head(0).select(_VECTORS)
        while (pairs := _most_similar(ranked).join(compared, on=_VECTORS, how="anti")).height:
            compared = pl.concat([compared, pairs])
            found = _aligned_vectors(pairs, sha256, aligned)
            if found.height:
                lists = lists.join(found, on=_VECTORS, how="anti")
                excluded = pl.concat([excluded, _pairs_with(images, found)]).unique()
                ranked = _rank_others(images, lists, excluded, clusters)
    similarity = np.full((len(ids), DEPTH), -np.inf)
    other = np.full((len(ids), DEPTH), -1, dtype=np.int64)
    entries = (ranked["item"].to_numpy(), ranked["rank"].to_numpy())
    similarity[entries] = ranked["similarity"].to_numpy()
    other[entries] = ranked["cluster"].to_numpy()
    return NearestOthers(similarity, other, clusters["vector"].to_numpy())


def _neighbors(rows: JoinInput, turned: Items | None, depth: int) -> pl.DataFrame:
    """vector, other_vector and similarity of the nearest other vectors of every vector."""
    first = rows.unique.first
    distinct = JoinInput.of(rows.unit.rows[first], "vectors")
    queries, of_each = distinct, 1
    if turned is not None:
        of_each = len(ORIENTATIONS)
        chosen = first[:, None] * of_each + np.arange(of_each)
        queries = JoinInput.of(turned.vectors[chosen.ravel()], "vectors")
    index, similarity = nearest(
        InputPair.of(queries, distinct),
        min(depth + 1, len(first)),
        np.full(len(first) * of_each, -1.0),
    )
    vector = np.repeat(np.arange(len(first)), of_each * index.shape[1])
    lists = pl.DataFrame(
        {"vector": vector, "other_vector": index.ravel(), "similarity": similarity.ravel()}
    ).filter((pl.col("vector") != pl.col("other_vector")) & (pl.col("other_vector") >= 0))
    if turned is None:
        return lists
    return lists.group_by("vector", "other_vector").agg(pl.col("similarity").max())


def _rank_others(
    images: pl.DataFrame, lists: pl.DataFrame, excluded: pl.DataFrame, clusters: pl.DataFrame
) -> pl.DataFrame:
    """The nearest clusters of every item: item, cluster, similarity, the vectors, rank (from 0)."""
    carriers = images.group_by("vector", maintain_order=True).head(_MAX_SHARED)
    pairs = (
        images.join(lists, on="vector")
        .join(carriers.rename({"item": "other", "vector": "other_vector"}), on="other_vector")
        .filter(pl.col("item") != pl.col("other"))
        .join(excluded, on=["item", "other"], how="anti")
        .join(clusters.rename({"item": "other", "vector": "cluster"}), on="other")
        .sort(["similarity", *_VECTORS], descending=[True, False, False])
        .unique(["item", "cluster"], keep="first", maintain_order=True)
        .select("item", "cluster", "similarity", *_VECTORS)
        .sort(["item", "similarity", "cluster"], descending=[False, True, False])
    )
    rank = pl.int_range(pl.len()).over("item").alias("rank")
    return pairs.with_columns(rank).filter(pl.col("rank") < DEPTH)


def _most_similar(ranked: pl.DataFrame) -> pl.DataFrame:
    """The pairs of vectors that are as similar as the nearest others of some of the items are."""
    best = ranked.filter(pl.col("rank") == 0)["similarity"].sort(descending=True)
    if not len(best):
        return ranked.select(_VECTORS)
    lowest = best[max(0, ceil(_COMPARED * len(best)) - 1)]
    return (
        ranked.filter(pl.col("similarity") >= lowest).select(_VECTORS).unique(maintain_order=True)
    )


def _aligned_vectors(
    pairs: pl.DataFrame, sha256: pl.Series, aligned: Callable[[pl.DataFrame], pl.DataFrame]
) -> pl.DataFrame:
    """Those of some pairs of vectors whose images align, in both directions."""
    ends = [sha256.gather(pairs[name]) for name in _VECTORS]
    named = pairs.with_columns(ends[0].alias("a"), ends[1].alias("b")).with_columns(
        pl.min_horizontal("a", "b").alias("left_sha256"),
        pl.max_horizontal("a", "b").alias("right_sha256"),
    )
    images = ["left_sha256", "right_sha256"]
    found = named.join(aligned(named.select(images).unique()), on=images, how="semi")
    swapped = found.select(pl.col(_VECTORS[1]).alias(_VECTORS[0]), pl.col(_VECTORS[0]).alias("b"))
    return pl.concat([found.select(_VECTORS), swapped.rename({"b": _VECTORS[1]})]).unique()


def _pairs_with(images: pl.DataFrame, vectors: pl.DataFrame) -> pl.DataFrame:
    """Item and other of items that have these pairs of vectors."""
    others = images.rename({"item": "other", "vector": "other_vector"})
    carriers = others.group_by("other_vector", maintain_order=True).head(_MAX_EXCLUDED)
    pairs = images.join(vectors, on="vector").join(carriers, on="other_vector")
    return pairs.filter(pl.col("item") != pl.col("other")).select("item", "other")


def _pairs_that_share(images: pl.DataFrame) -> pl.DataFrame:
    """Item and other of items of several images that share a vector.

    Items of one image that share it have no other pair.
    """
    several = images.filter(pl.len().over("item") > 1)
    shared = images.filter(pl.col("vector").is_in(several["vector"].unique().implode()))
    capped = shared.group_by("vector", maintain_order=True).head(_MAX_EXCLUDED)
    pairs = shared.join(capped.rename({"item": "other"}), on="vector")
    return pairs.filter(pl.col("item") != pl.col("other")).select("item", "other").unique()


def _positions(pairs: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """Item and other of pairs of ids, in both directions; ids that are gone are left out."""
    numbers = pl.DataFrame({"id": ids, "number": np.arange(len(ids))})
    numbered = (
        pairs.select(list(_PAIRS))
        .join(numbers.rename({"number": "item"}), left_on="left_id", right_on="id")
        .join(numbers.rename({"number": "other"}), left_on="right_id", right_on="id")
        .select("item", "other")
    )
    swapped = numbered.select(pl.col("other").alias("item"), pl.col("item").alias("other"))
    return pl.concat([numbered, swapped])


def _largest_count(frame: pl.DataFrame, column: str) -> int:
    """The most rows with one value; 0 without rows."""
    return int(frame[column].value_counts()["count"].max() or 0) if frame.height else 0  # type: ignore[arg-type]
