"""The inverted lists of the rows of both sides of a join."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from imgsim_assets.similarity.approximate.lists import InvertedLists, Numbers, RowLists
from imgsim_assets.similarity.cosine import Indices, unit_rows
from imgsim_assets.similarity.vector_blocks import VectorBlocks


class AssignedRows(Protocol):
    """The lists of the rows of a side."""

    def take(self, rows: Indices) -> RowLists:
        """The lists of some rows (p,), ascending."""


@dataclass(frozen=True)
class AssignedSides:
    """The inverted lists of a join.

    Attributes:
        lists: the lists.
        left: the lists of the left rows, and those that they probe.
        right: (m,) the list of each right row.
    """

    lists: InvertedLists
    left: AssignedRows
    right: Numbers

    def take_right(self, rows: Indices) -> AssignedSides:
        """The same of some right rows (p,)."""
        return replace(self, right=self.right[rows])

    @classmethod
    def of(cls, lists: InvertedLists, left: VectorBlocks, right: VectorBlocks) -> AssignedSides:
        """The lists of few rows, which are held in memory."""
        own = lists.own(unit_rows(right.all(), "vectors"))
        return cls(lists, lists.assign(unit_rows(left.all(), "vectors")), own)
