"""Items by the images that they have: the nodes of the graph whose clusters are duplicate groups.

Items with the same set of images are one node, so that a catalog of copies costs what its distinct
images cost. If every item has one image, the nodes are the distinct images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl

from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.items import ORIENTATION, VALUE, Items
from imgsim_assets.similarity.orientations import (
    BestOrientation,
    best_orientations,
    inverse,
)
from imgsim_assets.similarity.settings import Compare
from imgsim_assets.similarity.vector_blocks import cosines

# Pairs of images that are scored at once.
_MAX_CELLS = 1 << 20
# Digits of an image's number, for keys that sort as the numbers do.
_DIGITS = 10
# Between the sha256 of an image and what its items agree in.
_SEPARATOR = "\0"


def image_key(rows: pl.DataFrame) -> pl.Expr:
    """What names a distinct image: its sha256, and with `within` also the value of its items."""
    sha256 = pl.col("sha256")
    return pl.concat_str(sha256, pl.lit(_SEPARATOR), VALUE) if VALUE in rows.columns else sha256


class _Cells(NamedTuple):
    """All pairs of images (i, j) of some pairs of nodes, by pair, i and j, and their cosines.

    `orientation` is the one in which image i is as similar to image j.
    """

    part: slice
    pair: Indices
    i: Indices
    j: Indices
    cosine: Doubles
    orientation: Indices


@dataclass(frozen=True)
class ImageSets:
    """The distinct sets of images of items.

    Attributes:
        images: the distinct images by their keys (`image_key`), sorted.
        rows: the images of the items: id, image, sha256, `position` among the images, and `node`.
            Items and their images have the order of the input.
        start: (n,) where the images of each node begin in `members`.
        counts: (n,) how many images each node has.
        members: positions of images, ascending within a node.
        compare: how two sets of several images are compared.
        turned: the distinct images in all orientations; None where all are compared upright. Of
            two images, the one with the smaller key is turned.
    """

    images: Items
    rows: pl.DataFrame
    start: Indices
    counts: Indices
    members: Indices
    compare: Compare
    turned: Items | None = None

    @classmethod
    def of(
        cls,
        rows: pl.DataFrame,
        images: Items,
        compare: Compare = "any",
        alone: pl.Series | None = None,
        turned: Items | None = None,
    ) -> ImageSets:
        """The sets of the items of `rows` (id, image, sha256; with `within` also value).

        Each item of `alone` (ids) is a node of its own, whatever images others have.
        """
        position = images.keys["id"].search_sorted(rows.select(image_key(rows)).to_series())
        placed = rows.select("id", "image", "sha256", position.cast(pl.Int64).alias("position"))
        has_alone = alone is not None and len(alone) > 0
        if placed["id"].n_unique() == placed.height and not has_alone:
            each = np.arange(len(images))
            placed = placed.with_columns(pl.col("position").alias("node"))
            return cls(images, placed, each, np.ones_like(each), each, compare, turned)
        key = pl.col("position").sort().cast(pl.String).str.zfill(_DIGITS).str.join()
        items = placed.group_by("id").agg(key.alias("key"), pl.col("position").sort())
        if alone is not None:
            own = pl.when(pl.col("id").is_in(alone.implode())).then("id").otherwise(pl.lit(""))
            items = items.with_columns(pl.concat_str("key", pl.lit("\0"), own))
        items = items.with_columns((pl.col("key").rank("dense") - 1).cast(pl.Int64).alias("node"))
        placed = placed.join(items.select("id", "node"), on="id", how="left", maintain_order="left")
        members = items.unique("node").sort("node")["position"]
        counts = members.list.len().cast(pl.Int64).to_numpy()
        start = np.cumsum(counts) - counts
        return cls(images, placed, start, counts, members.explode().to_numpy(), compare, turned)

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def has_several(self) -> bool:
        """Whether the nodes are not the images, one each: an item has several, or is alone."""
        return not np.array_equal(self.members, np.arange(len(self)))

    def links(self, pairs: Indices, threshold: float) -> Indices:
        """The links of nodes (m, 2), a < b, sorted, that pairs of images imply.

        Two nodes are linked if a pair of their images is, or if they share an image; with
        `mean_best`, if their similarity reaches the threshold as well.

        Args:
            pairs: (p, 2) positions of images whose similarity reaches the threshold, a < b, sorted.
            threshold: minimum cosine, inclusive.
        """
        if not self.has_several:
            return pairs
        nodes = pl.DataFrame(
            {"position": self.members, "node": np.repeat(np.arange(len(self)), self.counts)}
        )
        linked = pl.DataFrame({"position": pairs[:, 0], "other": pairs[:, 1]})
        linked = linked.join(nodes, on="position").join(
            nodes.rename({"position": "other", "node": "node_right"}), on="other"
        )
        shared = nodes.join(nodes, on="position")
        ends = pl.concat([linked, shared], how="diagonal").select(
            pl.min_horizontal("node", "node_right").alias("a"),
            pl.max_horizontal("node", "node_right").alias("b"),
        )
        links = ends.filter(pl.col("a") < pl.col("b")).unique().sort("a", "b").to_numpy()
        if self.compare == "mean_best":
            links = links[self.similarity(links[:, 0], links[:, 1]) >= threshold]
        return links

    def similarity(self, a: Indices, b: Indices) -> Doubles:
        """The similarity (p,) of pairs of nodes: of their best pair of images.

        With `mean_best` it is the mean, over the images of one node, of the best image of the
        other: of the two directions the lower.
        """
        if not self.has_several:
            return self._compare_images(a, b).cosine
        similarity = np.empty(len(a))
        for cells in self._cells(a, b):
            starts = np.flatnonzero(np.diff(cells.pair, prepend=-1))
            best = np.maximum.reduceat(cells.cosine, starts)
            if self.compare == "mean_best":
                means = (
                    _mean_of_best(cells.pair, ends, cells.cosine) for ends in (cells.i, cells.j)
                )
                # Rounding may lift the mean of equal numbers above them.
                best = np.minimum.reduce([best, *means])
            similarity[cells.part] = best
        return similarity

    def best_images(self, a: Indices, b: Indices) -> tuple[Indices, Indices]:
        """The positions (p,) of the best pair of images of pairs of nodes, the first of ties."""
        i, j = np.empty(len(a), dtype=np.int64), np.empty(len(a), dtype=np.int64)
        for cells in self._cells(a, b):
            order = np.lexsort((cells.j, cells.i, -cells.cosine, cells.pair))
            first = order[np.flatnonzero(np.diff(cells.pair[order], prepend=-1))]
            i[cells.part], j[cells.part] = cells.i[first], cells.j[first]
        return i, j

    def nearest_images(self, nodes: Indices, targets: Indices) -> pl.DataFrame:
        """How near each image of some nodes is to a target node, and in which orientation.

        Returns:
            node, position, cosine and orientation (its number).
        """
        frames = []
        for cells in self._cells(nodes, targets):
            cell = pl.DataFrame(
                {
                    "pair": cells.pair,
                    "position": cells.i,
                    "cosine": cells.cosine,
                    ORIENTATION: cells.orientation,
                }
            )
            best = cell.sort(
                ["pair", "position", "cosine", ORIENTATION], descending=[False, False, True, False]
            ).unique(["pair", "position"], keep="first", maintain_order=True)
            node = pl.Series("node", nodes[cells.part][best["pair"].to_numpy()])
            frames.append(best.select(node, "position", "cosine", ORIENTATION))
        schema = {
            "node": pl.Int64,
            "position": pl.Int64,
            "cosine": pl.Float64,
            ORIENTATION: pl.Int64,
        }
        return pl.concat(frames) if frames else pl.DataFrame(schema=schema)

    def _cells(self, a: Indices, b: Indices) -> Iterator[_Cells]:
        """The pairs of images of pairs of nodes (p,), so many at once as memory allows."""
        cells = np.cumsum(self.counts[a] * self.counts[b])
        begin = 0
        while begin < len(a):
            limit = (cells[begin - 1] if begin else 0) + _MAX_CELLS
            end = max(begin + 1, int(np.searchsorted(cells, limit, side="right")))
            part = slice(begin, end)
            height, width = self.counts[a[part]], self.counts[b[part]]
            size = height * width
            pair = np.repeat(np.arange(end - begin), size)
            number = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
            i = self.members[self.start[a[part]][pair] + number // width[pair]]
            j = self.members[self.start[b[part]][pair] + number % width[pair]]
            yield _Cells(part, pair, i, j, *self._compare_images(i, j))
            begin = end

    def _compare_images(self, i: Indices, j: Indices) -> BestOrientation:
        """The cosines of images i (p,) and j, and the orientations in which i is as similar."""
        upright = self.images.blocks
        if self.turned is None:
            return BestOrientation(cosines(upright, upright, i, j), np.zeros_like(i))
        first, second = np.minimum(i, j), np.maximum(i, j)
        best = best_orientations(self.turned.blocks, upright, first, second)
        is_turned = np.where(i <= j, best.orientation, inverse(best.orientation))
        # An image is upright beside itself, however its symmetries are rounded.
        return BestOrientation(best.cosine, np.where(i == j, 0, is_turned))


def _mean_of_best(pair: Indices, image: Indices, cosine: Doubles) -> Doubles:
    """The mean, over the images of each pair's one side, of the best cosine of each."""
    order = np.lexsort((image, pair))
    pair, image = pair[order], image[order]
    starts = np.flatnonzero((np.diff(pair, prepend=-1) != 0) | (np.diff(image, prepend=-1) != 0))
    best = np.maximum.reduceat(cosine[order], starts)
    # Sums from left to right, so that the result does not depend on what is scored at once.
    mean: Doubles = np.bincount(pair[starts], weights=best) / np.bincount(pair[starts])
    return mean
