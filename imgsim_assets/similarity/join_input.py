"""The two sides of a join: checked rows, of which copies are worked on once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.copies import Distinct, distinct
from imgsim_assets.similarity.cosine import (
    Doubles,
    Floats,
    Indices,
    UnitRows,
    pair_cosines,
    product_error,
    unit_rows,
)
from imgsim_assets.similarity.threads import in_pieces, processors


@dataclass(frozen=True)
class Side:
    """Rows, of which only the first of every set of copies is looked at.

    A side may be some of the rows only; row numbers are those of all of them.
    """

    unit: UnitRows
    copies: Distinct

    @classmethod
    def of(cls, rows: NDArray[np.floating], name: str) -> Side:
        """All the rows (n, d), checked; ValueError names the argument and the bad row."""
        unit = unit_rows(rows, name)
        return cls(unit, distinct(unit.rows))

    def where(self, mask: NDArray[np.bool_]) -> Side:
        """The rows of a mask (n,); nothing is copied."""
        return Side(self.unit, self.copies.where(mask))

    def __len__(self) -> int:
        return len(self.copies.first)

    @property
    def dim(self) -> int:
        """Numbers of a row."""
        return int(self.unit.rows.shape[1])

    @property
    def is_plain(self) -> bool:
        """Whether its distinct rows are all the rows there are, in their order."""
        return len(self.copies.first) == len(self.unit.rows)

    def places(self, index: Indices) -> Indices:
        """Row numbers of distinct rows."""
        return index if self.is_plain else self.copies.first[index]

    def block(self, start: int, stop: int) -> tuple[Floats, Doubles]:
        """Some distinct rows and their squared lengths."""
        chosen = slice(start, stop) if self.is_plain else self.copies.first[start:stop]
        return self.unit.rows[chosen], self.unit.squares[chosen]

    def sample(self, count: int) -> tuple[Floats, Doubles, Indices]:
        """At most `count` distinct rows at equal distances, their squared lengths, and which."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64)
        rows = self.copies.first[chosen]
        return self.unit.rows[rows], self.unit.squares[rows], chosen


@dataclass(frozen=True)
class Pair:
    """Both sides of a join; `error` is how far their float32 products may be off."""

    left: Side
    right: Side
    error: float

    @classmethod
    def of(
        cls, left: Side, right: Side, left_name: str = "left", right_name: str = "right"
    ) -> Pair:
        """Both sides; ValueError when their widths differ."""
        if left.dim != right.dim:
            raise ValueError(
                f"{left_name} has rows of {left.dim} numbers, {right_name} of {right.dim}; "
                "they must come from the same encoder"
            )
        deviation = max(left.unit.deviation, right.unit.deviation)
        return cls(left, right, product_error(left.dim, deviation))

    def turned(self) -> Pair:
        """Right and left; cosines and products stay what they are."""
        return Pair(self.right, self.left, self.error)

    def cosines(self, i: Indices, j: Indices) -> Doubles:
        """The cosines of distinct rows, by definition."""
        return pair_cosines(
            self.left.unit.rows,
            self.right.unit.rows,
            self.left.places(i),
            self.right.places(j),
            squares=(self.left.unit.squares, self.right.unit.squares),
        )

    def products(self, i: Indices, j: Indices) -> Floats:
        """The float32 products of distinct rows, off by no more than `error`."""
        import faiss

        a, b = self.left.unit.rows, self.right.unit.rows
        i, j = (np.ascontiguousarray(part) for part in (self.left.places(i), self.right.places(j)))
        products = np.empty(len(i), dtype=np.float32)

        def fill(piece: slice) -> None:
            arrays = (a, i[piece], b, j[piece], products[piece])
            pointers = [faiss.swig_ptr(part) for part in arrays]
            count = len(i[piece])
            # A team of OpenMP would spin on after its work, in the way of the next product. The
            # number is this thread's own, which may be the caller's.
            threads = faiss.omp_get_max_threads()
            faiss.omp_set_num_threads(1)
            try:
                faiss.pairwise_indexed_inner_product(a.shape[1], count, *pointers)  # type: ignore[attr-defined]
            finally:
                faiss.omp_set_num_threads(threads)

        in_pieces(len(i), -(-len(i) // processors()), fill)
        return products
