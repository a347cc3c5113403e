"""Blocks of few rows, so that small catalogs have several of them, and rows in files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from imgsim_assets.similarity import neighbor_lists, vector_blocks
from imgsim_assets.similarity.cosine import Floats, Indices
from imgsim_assets.similarity.vector_blocks import Part
from imgsim_assets.storage import id_blocks, row_blocks


@contextmanager
def small_blocks(rows: int = 2) -> Iterator[None]:
    """Vectors are in files and are read a few rows at a time, chosen ones without the others.

    A file has rows of a few items. Rows of a few cached pairs are compared together.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_blocks, "vectors_in_memory", lambda: 0)
        patch.setattr(vector_blocks, "MAX_BLOCK_ROWS", rows)
        patch.setattr(vector_blocks, "TIMES_FEW", 1)
        patch.setattr(neighbor_lists, "pairs_in_memory", lambda: 2 * rows)
        patch.setattr(row_blocks, "BLOCK_ROWS", rows)
        patch.setattr(id_blocks, "MIN_ROWS", 1)
        patch.setattr(id_blocks, "MAX_ROWS", 2 * rows)
        patch.setattr(id_blocks, "MEAN_ROWS", rows)
        yield


@dataclass(frozen=True)
class ShuffledParts:
    """Reads rows (n, d) in parts and in no order; notes which rows were read."""

    rows: Floats
    part: int = 3
    read: list[int] = field(default_factory=list)

    def __call__(self, rows: Indices | None = None) -> Iterator[Part]:
        """As of `ReadParts`."""
        order = np.random.default_rng(1).permutation(len(self.rows))
        for start in range(0, len(order), self.part):
            some = order[start : start + self.part]
            if rows is not None:
                some = some[np.isin(some, rows)]
            self.read.extend(some.tolist())
            yield some, self.rows[some]
