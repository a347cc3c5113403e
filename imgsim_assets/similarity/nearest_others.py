"""The nearest different items of every item of a catalog: the pairs that must not match.

Two items are different unless they share an image: the same file, or another file of the same
pixels, which has an equal vector; unless a caller knows that they show the same; and, where images
are compared a second time, unless those align. Several images of one item are never a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from imgsim_assets.compute.memory import return_freed_memory
from imgsim_assets.compute.tasks import run_tasks, task_ranges
from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.scratch import scratch_folder
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.nearest_vectors import NearestVectors
from imgsim_assets.similarity.other_items import DEPTH, NearestOthers, RankedOthers
from imgsim_assets.similarity.row_numbers import RowNumbers, compact
from imgsim_assets.similarity.unique_rows import find_unique_in_blocks

# Items that are listed of those that share one image, such as a placeholder.
_MAX_SHARED = DEPTH
# More pairs of one item than this are not excluded one by one.
_MAX_EXCLUDED = 64
# Aligned others of each item that are looked behind.
_MAX_ALIGNED = 16
# The fraction of the items, those with the most similar others, whose others are compared again: a
# little more than the tail to which thresholds are fitted.
_COMPARED = 0.25
# Neighbors of all vectors of a block.
_MAX_LISTED = 1 << 20
# Fewer rows are not worth a task of a cluster.
_MIN_TASK_ROWS = 4096
# What a task needs: two blocks of vectors, the working memory of a join, and the libraries.
_TASK_BYTES = 2 * 2**30
# Images whose neighbors are ranked at once.
_RANKED_ROWS = 1 << 13
_VECTORS = ["vector", "other_vector"]
_LISTS, _RANKED = "lists", "ranked"
_PAIRS = {"left_id": pl.String, "right_id": pl.String}


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
    if not len(items):
        return NearestOthers(np.empty(0, np.int64))
    images, first = _images_of(items)
    excluded = _pairs_that_share(images)
    if same is not None and same.height:
        excluded = pl.concat([excluded, _positions(same, items.ids)]).unique()
    # An item's own images and those of excluded items may be nearer than any other, and each of
    # the nearest items may take as many places as it has images.
    own = _largest_count(images, "item")
    depth = own * (DEPTH + min(_largest_count(excluded, "item"), _MAX_EXCLUDED))
    depth += own * _MAX_ALIGNED if aligned is not None else 0
    vectors = items.blocks.take(first)
    of_turned = turned.blocks.take(_turned_rows(first)) if turned is not None else None
    search = NearestVectors(vectors, of_turned)
    depth = min(depth, len(vectors) - 1)
    if aligned is None:
        return _Ranking(images, search, depth).rank(excluded)
    sha256 = items.images.gather(first, ["sha256"])["sha256"]
    with scratch_folder() as folder:
        ranking = _Ranking(images, search, depth, folder)
        return _without_aligned(ranking, images, excluded, sha256, aligned)


def _images_of(items: Items) -> tuple[pl.DataFrame, Indices]:
    """Item and vector of the images of items, and the first row of each vector."""
    unique = find_unique_in_blocks(items.blocks)
    vector = np.empty(len(items), np.uint32)
    vector[unique.rows] = np.repeat(np.arange(len(unique.first), dtype=np.uint32), unique.counts)
    images = pl.DataFrame({"item": items.numbers.astype(np.uint32), "vector": vector})
    if items.max_images > 1:
        images = images.unique(maintain_order=True)
    return images, unique.first


def _turned_rows(rows: Indices) -> Indices:
    """The rows of images in all orientations."""
    of_each = len(ORIENTATIONS)
    turned: Indices = (rows[:, None] * of_each + np.arange(of_each)).ravel()
    return turned


def _without_aligned(
    ranking: _Ranking,
    images: pl.DataFrame,
    excluded: pl.DataFrame,
    sha256: pl.Series,
    aligned: Callable[[pl.DataFrame], pl.DataFrame],
) -> NearestOthers:
    """The nearest items, without those whose images align; `sha256` has those of the vectors."""
    others = ranking.rank(excluded)
    compared = pl.DataFrame(schema=dict.fromkeys(_VECTORS, pl.Int64))
    found = compared
    while (pairs := ranking.most_similar(others).join(compared, on=_VECTORS, how="anti")).height:
        compared = pl.concat([compared, pairs])
        now = _aligned_vectors(pairs, sha256, aligned)
        if now.height:
            found = pl.concat([found, now])
            excluded = pl.concat([excluded, _pairs_with(images, now)]).unique()
            others = ranking.rank(excluded, found)
    return others


class _Ranking:
    """The items of a catalog in blocks, and the neighbors of their vectors.

    Items that share their first vector are in one block. Where aligned items are left out, the
    lists and the rankings of the blocks lie in a folder, since they are used again.
    """

    def __init__(
        self,
        images: pl.DataFrame,
        search: NearestVectors,
        depth: int,
        folder: Path | None = None,
    ) -> None:
        self._images, self._search, self._depth, self._folder = images, search, depth, folder
        self._cluster = _first_vectors(images)
        self._carriers = _Carriers.of(images)
        item = images["item"].to_numpy()
        self._order = compact(np.lexsort((item, self._cluster[item])))
        self._bounds = self._block_bounds()
        # What sorting all images has taken.
        return_freed_memory()

    def rank(self, excluded: pl.DataFrame, aligned: pl.DataFrame | None = None) -> NearestOthers:
        """The nearest items of every item.

        Args:
            excluded: item and other of pairs that are left out.
            aligned: pairs of vectors that are left out.
        """
        nearest = NearestOthers(self._cluster)
        for number, lists in enumerate(self._lists()):
            images = self._block(number)
            if aligned is not None:
                lists = lists.join(aligned, on=_VECTORS, how="anti")
            bounds = _bounds(images["item"].to_numpy(), _RANKED_ROWS)
            ranked = pl.concat(
                _rank_others(images[a:b], lists, excluded, self._cluster, self._carriers)
                for a, b in pairwise(bounds)
            )
            if self._folder is not None:
                ranked.write_parquet(self._folder / f"{_RANKED}{number}")
            items = np.unique(images["item"].to_numpy())
            others = RankedOthers.none(len(items))
            entries = (np.searchsorted(items, ranked["item"].to_numpy()), ranked["rank"].to_numpy())
            others.similarity[entries] = ranked["similarity"].to_numpy()
            others.other[entries] = ranked["cluster"].to_numpy()
            nearest.write(items, others)
        return nearest

    def most_similar(self, others: NearestOthers) -> pl.DataFrame:
        """The pairs of vectors that are as similar as the nearest others of some of the items."""
        best = others.best
        best = np.sort(best[np.isfinite(best)])[::-1]
        lowest = best[max(0, ceil(_COMPARED * len(best)) - 1)] if len(best) else np.inf
        if self._folder is None:
            raise AssertionError("rankings are used again, and need a folder")
        of_blocks = (
            pl.read_parquet(self._folder / f"{_RANKED}{number}")
            .filter(pl.col("similarity") >= lowest)
            .select(_VECTORS)
            for number in range(len(self._bounds) - 1)
        )
        return pl.concat(of_blocks).unique(maintain_order=True)

    def _block(self, number: int) -> pl.DataFrame:
        """The images of the items (item, vector) of a block."""
        rows = self._order[self._bounds[number] : self._bounds[number + 1]]
        return self._images.select(pl.all().gather(rows)).cast(pl.Int64)

    def _block_bounds(self) -> list[int]:
        """Where each block begins in the order, and the end: blocks of whole items."""
        largest = max(1, min(self._search.block_rows, _MAX_LISTED // (self._depth + 1)))
        count = len(self._order)
        ranges = task_ranges(count, smallest=min(_MIN_TASK_ROWS, largest), largest=largest)
        size = max(map(len, ranges), default=1)
        return _bounds(self._images["item"].to_numpy()[self._order], size)

    def _lists(self) -> Iterator[pl.DataFrame]:
        """The neighbors of the vectors of each block."""
        numbers = range(len(self._bounds) - 1)
        paths = [self._folder / f"{_LISTS}{n}" if self._folder else None for n in numbers]
        if all(path is not None and path.exists() for path in paths):
            yield from (pl.read_parquet(path) for path in paths if path is not None)
            return
        searched = [self._block(n)["vector"].unique().sort().to_numpy() for n in numbers]
        find = partial(self._search.of, k=self._depth)
        found = run_tasks(
            find, searched, "nearest items", unit="blocks", memory=_TASK_BYTES, uses_gpu=True
        )
        for path, lists in zip(paths, found, strict=True):
            if path is not None:
                lists.write_parquet(path)
            return_freed_memory()
            yield lists


def _bounds(item: RowNumbers, size: int) -> list[int]:
    """Where parts of about so many rows begin, and the end: parts of whole items (n,)."""
    bounds = [0]
    for start in range(size, len(item), size):
        # A part ends before the first item that begins behind its size.
        end = start
        while end < len(item) and item[end] == item[start - 1]:
            end += 1
        if bounds[-1] < end < len(item):
            bounds.append(end)
    return [*bounds, len(item)]


def _rank_others(
    images: pl.DataFrame,
    lists: pl.DataFrame,
    excluded: pl.DataFrame,
    cluster: RowNumbers,
    carriers: _Carriers,
) -> pl.DataFrame:
    """The nearest clusters of some items: item, cluster, similarity, the vectors, rank (from 0).

    Args:
        images: item and vector of the images of these items.
        lists: the neighbors of their vectors.
        excluded: item and other of pairs that are left out.
        cluster: the first vector of each item of the catalog.
        carriers: the first items that have a vector.
    """
    pairs = (
        carriers.with_others(images.join(lists, on="vector"))
        .filter(pl.col("item") != pl.col("other"))
        .join(excluded, on=["item", "other"], how="anti")
    )
    of_others = cluster[pairs["other"].to_numpy()].astype(np.int64)
    pairs = (
        pairs.with_columns(pl.Series("cluster", of_others))
        .sort(["similarity", *_VECTORS], descending=[True, False, False])
        .unique(["item", "cluster"], keep="first", maintain_order=True)
        .select("item", "cluster", "similarity", *_VECTORS)
        .sort(["item", "similarity", "cluster"], descending=[False, True, False])
    )
    rank = pl.int_range(pl.len()).over("item").alias("rank")
    return pairs.with_columns(rank).filter(pl.col("rank") < DEPTH)


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
    images = images.cast(pl.Int64)
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
    shared = shared.cast(pl.Int64)
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


def _first_vectors(images: pl.DataFrame) -> RowNumbers:
    """The first vector of each item, of images by item."""
    item = images["item"].to_numpy()
    begins = np.flatnonzero(np.append(True, item[1:] != item[:-1]))
    first: RowNumbers = np.minimum.reduceat(images["vector"].to_numpy(), begins)
    return first


class _Carriers(NamedTuple):
    """The first items that have a vector, few of each: `item` from `start[vector]` on."""

    item: RowNumbers
    start: RowNumbers

    @classmethod
    def of(cls, images: pl.DataFrame) -> _Carriers:
        """Those of images by item."""
        order = np.argsort(images["vector"].to_numpy(), kind="stable")
        vector = images["vector"].to_numpy()[order]
        is_first = np.arange(len(vector)) - np.searchsorted(vector, vector) < _MAX_SHARED
        start = np.append(0, np.cumsum(np.bincount(vector[is_first])))
        return cls(images["item"].to_numpy()[order[is_first]], compact(start))

    def with_others(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """Each of some pairs with the items (other) that have its other_vector."""
        vector = pairs["other_vector"].to_numpy()
        first = self.start[vector].astype(np.int64)
        count = self.start[vector + 1] - first
        ends = np.cumsum(count)
        pair = np.repeat(np.arange(len(vector)), count)
        at = np.arange(len(pair)) + np.repeat(first - ends + count, count)
        other = pl.Series("other", self.item[at].astype(np.int64))
        return pairs.select(pl.all().gather(pair)).with_columns(other)


def _largest_count(frame: pl.DataFrame, column: str) -> int:
    """The most rows with one value; 0 without rows."""
    return int(np.bincount(frame[column].to_numpy()).max()) if frame.height else 0
