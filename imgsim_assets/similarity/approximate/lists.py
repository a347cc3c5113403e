"""Inverted lists: the rows of a join by their nearest of some centroids.

A pair of rows is a candidate if the list of the right row, that of its nearest centroid, is among
the `nprobe` lists nearest to the left row. So two rows and the centroids decide it, whatever other
rows there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import (
    Floats,
    Indices,
    UnitRows,
    pair_cosines,
    product_error,
    unit_rows,
)
from imgsim_assets.similarity.threads import parallel_map

# Numbers of lists.
Numbers = NDArray[np.uint16]
MAX_LISTS = 1 << 16
# Rows that are compared with the centroids at once.
_ROWS_PER_TASK = 512


class RowLists(NamedTuple):
    """The list of each row, (n,), and the lists that it probes, (n, nprobe), ascending."""

    own: Numbers
    probed: Numbers

    def take(self, rows: Indices) -> RowLists:
        """The lists of some rows (p,)."""
        return RowLists(self.own[rows], self.probed[rows])


@dataclass(frozen=True, eq=False)
class InvertedLists:
    """The centroids (l, d) of the lists, unit rows, and how many lists a left row probes."""

    centroids: Floats
    nprobe: int

    def __len__(self) -> int:
        return len(self.centroids)

    def with_nprobe(self, nprobe: int) -> InvertedLists:
        """The same lists with another number of probes."""
        return replace(self, nprobe=max(1, min(nprobe, len(self))))

    @cached_property
    def unit(self) -> UnitRows:
        """The centroids, validated."""
        return unit_rows(self.centroids, "centroids")

    def own(self, rows: UnitRows) -> Numbers:
        """The list of each row, (n,): that of greatest cosine, ties by number."""
        return self._assign(rows, 0).own

    def assign(self, rows: UnitRows) -> RowLists:
        """The list of each row, and the lists that it probes.

        The float64 cosines decide, so that the lists of a row do not depend on other rows.
        """
        return self._assign(rows, self.nprobe)

    def _assign(self, rows: UnitRows, nprobe: int) -> RowLists:
        count = len(rows.rows)
        own, probed = np.empty(count, np.uint16), np.empty((count, nprobe), np.uint16)

        def fill(start: int) -> None:
            part = slice(start, start + _ROWS_PER_TASK)
            some = UnitRows(rows.rows[part], rows.squares[part], rows.deviation)
            near = _NearCentroids(some, self.unit)
            own[part] = near.nearest()
            if nprobe:
                probed[part] = near.first(nprobe)

        for _ in parallel_map(fill, range(0, count, _ROWS_PER_TASK)):
            pass
        return RowLists(own, probed)


class _NearCentroids:
    """The nearest centroids of some rows."""

    def __init__(self, rows: UnitRows, centroids: UnitRows) -> None:
        self._rows, self._centroids = rows, centroids
        self._products: Floats = rows.rows @ centroids.rows.T
        deviation = max(rows.deviation, centroids.deviation)
        # A product is off by the error at most, so further away than twice of it the order is sure.
        self._margin = np.float32(2 * product_error(rows.rows.shape[1], deviation))

    def nearest(self) -> Numbers:
        """The one of greatest cosine for each row, ties by number, (n,)."""
        greatest = self._products.max(axis=1, keepdims=True)
        i, j = np.nonzero(self._products >= greatest - self._margin)
        if len(i) > len(self._products):
            i, j = self._by_cosine(i, j)
            first = np.flatnonzero(np.diff(i, prepend=-1))
            i, j = i[first], j[first]
        nearest: Numbers = j.astype(np.uint16)
        return nearest

    def first(self, count: int) -> Numbers:
        """Those of greatest cosine for each row, ties by number: (n, count), ascending."""
        products, every = self._products, self._products.shape[1]
        if count >= every:
            return np.broadcast_to(np.arange(every, dtype=np.uint16), products.shape)
        kth = np.partition(products, every - count, axis=1)[:, every - count, None]
        is_chosen = products > kth + self._margin
        is_open = (products >= kth - self._margin) & ~is_chosen
        missing = count - np.count_nonzero(is_chosen, axis=1)
        is_tied = np.count_nonzero(is_open, axis=1) > missing
        is_chosen |= is_open & ~is_tied[:, None]
        self._choose(is_chosen, is_open & is_tied[:, None], missing)
        numbers: Numbers = np.nonzero(is_chosen)[1].astype(np.uint16).reshape(-1, count)
        return numbers

    def _choose(
        self, is_chosen: NDArray[np.bool_], is_open: NDArray[np.bool_], missing: Indices
    ) -> None:
        """Choose as many of the open centroids as are missing, by their float64 cosines."""
        i, j = self._by_cosine(*np.nonzero(is_open))
        is_within = np.arange(len(i)) - np.searchsorted(i, i) < missing[i]
        is_chosen[i[is_within], j[is_within]] = True

    def _by_cosine(self, i: Indices, j: Indices) -> tuple[Indices, Indices]:
        """Pairs of rows (p,) and centroids by row, falling float64 cosine and number."""
        squares = self._rows.squares, self._centroids.squares
        cosines = pair_cosines(self._rows.rows, self._centroids.rows, i, j, squares=squares)
        order = np.lexsort((j, -cosines, i))
        return i[order], j[order]
