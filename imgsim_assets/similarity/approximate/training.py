"""Training of inverted lists: spherical k-means over rows of both sides of a join."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from imgsim_assets.similarity.approximate.kmeans import spherical_kmeans
from imgsim_assets.similarity.approximate.lists import MAX_LISTS, InvertedLists
from imgsim_assets.similarity.cosine import Floats, Indices, unit_rows
from imgsim_assets.similarity.vector_blocks import Part, VectorBlocks, chosen_parts

# The number of lists, as a multiple of the root of the number of rows.
_LISTS_PER_ROOT = 4
# Rows that a list has at least on average, and those of them that its centroid is trained on.
_MIN_ROWS_PER_LIST = 32
_TRAINING_ROWS_PER_LIST = 48
# Parts of a block that the sample is read in.
_PARTS_PER_BLOCK = 4


def trained_lists(left: VectorBlocks, right: VectorBlocks) -> InvertedLists:
    """Lists for a join; all of them are probed until `nprobe` is set.

    Args:
        left: the left rows, (n, d) unit rows.
        right: the right rows, (m, d); the same object where a set is joined with itself.
    """
    count = list_count(len(right))
    rows = _sample(left, right, count * _TRAINING_ROWS_PER_LIST)
    centroids = rows.read(0, 1) if count == 1 else _in_order(spherical_kmeans(rows, count))
    return InvertedLists(centroids, len(centroids))


def list_count(rows: int) -> int:
    """How many lists a number of rows is divided into: it grows with their root."""
    return max(1, min(_LISTS_PER_ROOT * math.isqrt(rows), rows // _MIN_ROWS_PER_LIST, MAX_LISTS))


def _sample(left: VectorBlocks, right: VectorBlocks, size: int) -> VectorBlocks:
    """About so many rows of both sides, which are copied since they are read repeatedly."""
    sides = [left, right] if left is not right else [right]
    numbers = [_at_intervals(len(side), size // len(sides)) for side in sides]
    parts = _SampleParts(
        [side.take(some) for side, some in zip(sides, numbers, strict=True) if len(some)]
    )
    return VectorBlocks.from_parts(sum(map(len, numbers)), parts)


@dataclass(frozen=True)
class _SampleParts:
    """Reads the rows of several sides, one side after the other."""

    sides: Sequence[VectorBlocks]

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        return chosen_parts(self._parts(), rows)

    def _parts(self) -> Iterator[Part]:
        first = 0
        for side in self.sides:
            # Rows that are near each other are read with those between them.
            size = max(1, side.block_rows // _PARTS_PER_BLOCK)
            for start in range(0, len(side), size):
                stop = min(start + size, len(side))
                yield np.arange(first + start, first + stop), side.read(start, stop)
            first += len(side)


def _at_intervals(count: int, size: int) -> Indices:
    """At most `size` of `count` row numbers, at equal intervals."""
    size = max(1, min(size, count))
    return np.linspace(0, count - 1, size).astype(np.int64) if count else np.empty(0, np.int64)


def _in_order(centroids: Floats) -> Floats:
    """Different centroids, so ordered that most neighbors are near."""
    centroids = np.unique(centroids, axis=0)
    rows = VectorBlocks.of(centroids)
    coarse = InvertedLists(spherical_kmeans(rows, math.isqrt(len(centroids))), nprobe=0)
    own = coarse.own(unit_rows(centroids, "centroids"))
    return centroids[np.argsort(own, kind="stable")]
