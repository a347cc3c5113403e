"""The inputs of a join: validated rows, of which equal ones are compared once.

An input can be prepared for many joins (`prepared.py`): its rows are then projected once, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import (
    Doubles,
    Floats,
    Indices,
    UnitRows,
    pair_cosines,
    product_error,
    unit_rows,
)
from imgsim_assets.similarity.projection import Projection
from imgsim_assets.similarity.threads import parallel_slices, worker_count
from imgsim_assets.similarity.unique_rows import UniqueRows, find_unique_rows


@dataclass(frozen=True)
class JoinInput:
    """Rows of one side of a join, of which only the unique ones are compared.

    It may cover some of the rows only; row numbers are those of all of them. `is_planned` inputs
    have a prefilter that was chosen for their joins: a projection, with the projected unique rows
    (u, h + 1), or None for whole rows.
    """

    unit: UnitRows
    unique: UniqueRows
    projection: Projection | None = None
    projected: Floats | None = None
    is_planned: bool = False

    @classmethod
    def of(cls, rows: NDArray[np.floating] | JoinInput, name: str) -> JoinInput:
        """All rows (n, d), validated; ValueError names the argument and the bad row.

        An input that was prepared is returned as it is.
        """
        if isinstance(rows, JoinInput):
            return rows
        unit = unit_rows(rows, name)
        return cls(unit, find_unique_rows(unit.rows))

    def where(self, mask: NDArray[np.bool_]) -> JoinInput:
        """The rows of a mask (n,), without a copy of the vectors."""
        return JoinInput(self.unit, self.unique.where(mask))

    def __len__(self) -> int:
        return len(self.unique.first)

    @property
    def dim(self) -> int:
        """The width of a row."""
        return int(self.unit.rows.shape[1])

    @property
    def has_no_duplicates(self) -> bool:
        """Whether the unique rows are all rows, in their order."""
        return len(self.unique.first) == len(self.unit.rows)

    def row_numbers(self, index: Indices) -> Indices:
        """The row numbers of unique rows."""
        return index if self.has_no_duplicates else self.unique.first[index]

    def rows(self, start: int, stop: int) -> JoinInput:
        """The rows from `start` to `stop` as an input of their own, numbered from 0.

        Nothing is checked, hashed or projected again; vectors are not copied.
        """
        part = slice(start, stop)
        unit = UnitRows(self.unit.rows[part], self.unit.squares[part], self.unit.deviation)
        count = len(unit.rows)
        if self.has_no_duplicates:
            unique = UniqueRows.distinct(count)
        else:
            mask = np.zeros(len(self.unit.rows), dtype=bool)
            mask[part] = True
            unique = self.unique.where(mask)
            unique = UniqueRows(unique.first - start, unique.rows - start, unique.start)
        projected = self._projected_of(unique.first + start)
        return JoinInput(unit, unique, self.projection, projected, self.is_planned)

    def _projected_of(self, rows: Indices) -> Floats | None:
        """The projections of some rows."""
        if self.projected is None:
            return None
        if self.has_no_duplicates:
            start = int(rows[0]) if len(rows) else 0
            return self.projected[start : start + len(rows)]
        group = np.empty(len(self.unit.rows), dtype=np.int64)
        group[self.unique.rows] = np.repeat(np.arange(len(self)), self.unique.counts)
        return self.projected[group[rows]]

    def block(self, start: int, stop: int) -> tuple[Floats, Doubles]:
        """The unique rows from `start` to `stop`, and their squared lengths."""
        chosen = slice(start, stop) if self.has_no_duplicates else self.unique.first[start:stop]
        return self.unit.rows[chosen], self.unit.squares[chosen]

    def sample(self, count: int) -> tuple[Floats, Doubles, Indices]:
        """At most `count` unique rows at equal intervals, their squared lengths and positions."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64)
        rows = self.unique.first[chosen]
        return self.unit.rows[rows], self.unit.squares[rows], chosen


@dataclass(frozen=True)
class InputPair:
    """Both inputs of a join; `error` bounds how far their float32 products may be off."""

    left: JoinInput
    right: JoinInput
    error: float

    @classmethod
    def of(
        cls, left: JoinInput, right: JoinInput, names: tuple[str, str] = ("left", "right")
    ) -> InputPair:
        """Both inputs; ValueError when their widths differ, with the names of the arguments."""
        if left.dim != right.dim:
            raise ValueError(
                f"{names[0]} has rows of {left.dim} numbers, {names[1]} of {right.dim}; "
                "they must come from the same encoder"
            )
        deviation = max(left.unit.deviation, right.unit.deviation)
        return cls(left, right, product_error(left.dim, deviation))

    @property
    def multiply_adds(self) -> int:
        """The cost of the product of all whole rows."""
        return len(self.left) * len(self.right) * self.left.dim

    def swapped(self) -> InputPair:
        """Right and left; cosines and products are symmetric."""
        return InputPair(self.right, self.left, self.error)

    def cosines(self, i: Indices, j: Indices) -> Doubles:
        """The float64 cosines of unique rows, by definition."""
        return pair_cosines(
            self.left.unit.rows,
            self.right.unit.rows,
            self.left.row_numbers(i),
            self.right.row_numbers(j),
            squares=(self.left.unit.squares, self.right.unit.squares),
        )

    def products(self, i: Indices, j: Indices) -> Floats:
        """The float32 products of unique rows, off by no more than `error`."""
        import faiss

        a, b = self.left.unit.rows, self.right.unit.rows
        i = np.ascontiguousarray(self.left.row_numbers(i))
        j = np.ascontiguousarray(self.right.row_numbers(j))
        products = np.empty(len(i), dtype=np.float32)

        def fill(part: slice) -> None:
            arrays = (a, i[part], b, j[part], products[part])
            pointers = [faiss.swig_ptr(array) for array in arrays]
            count = len(i[part])
            # OpenMP threads would spin on after their work and slow down the next product. The
            # number is set for this thread only, which may be the caller's: restore it.
            threads = faiss.omp_get_max_threads()
            faiss.omp_set_num_threads(1)
            try:
                faiss.pairwise_indexed_inner_product(a.shape[1], count, *pointers)  # type: ignore[attr-defined]
            finally:
                faiss.omp_set_num_threads(threads)

        parallel_slices(len(i), -(-len(i) // worker_count()), fill)
        return products
