"""The nearest vectors of some vectors among all of them, which are read in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.join_spec import MIN_COSINE
from imgsim_assets.similarity.knn import Nearest
from imgsim_assets.similarity.row_pairs import row_pairs
from imgsim_assets.similarity.vector_blocks import VectorBlocks

SCHEMA = {"vector": pl.Int64, "other_vector": pl.Int64, "similarity": pl.Float64}


@dataclass(frozen=True)
class NearestVectors:
    """Searches among distinct vectors.

    Attributes:
        vectors: the distinct vectors.
        turned: the same in all orientations, a row for each; None for upright only.
    """

    vectors: VectorBlocks
    turned: VectorBlocks | None = None

    @property
    def block_rows(self) -> int:
        """How many vectors may be searched for at once."""
        rows = self.vectors.block_rows
        return rows if self.turned is None else max(1, rows // len(ORIENTATIONS))

    def of(self, numbers: Indices, k: int) -> pl.DataFrame:
        """The k nearest other vectors of some vectors, in their best orientations.

        Args:
            numbers: (q,) row numbers of vectors, ascending.
            k: how many; of vectors in several orientations, of each orientation.

        Returns:
            A frame of SCHEMA.
        """
        of_each, queries = 1, self.vectors.rows(numbers)
        if self.turned is not None:
            of_each = len(ORIENTATIONS)
            rows = numbers[:, None] * of_each + np.arange(of_each)
            queries = self.turned.rows(rows.ravel())
        # A vector is its own neighbor.
        found = nearest_in_blocks(JoinInput.of(queries, "vectors"), self.vectors, k + 1)
        others = found.index.ravel(), found.similarity.ravel()
        lists = pl.DataFrame(
            [np.repeat(numbers, of_each * (k + 1)), *others], schema=SCHEMA
        ).filter((pl.col("vector") != pl.col("other_vector")) & (pl.col("other_vector") >= 0))
        if self.turned is None:
            return lists
        return lists.group_by("vector", "other_vector").agg(pl.col("similarity").max())


def nearest_in_blocks(queries: JoinInput, references: VectorBlocks, k: int) -> Nearest:
    """The k nearest references of each query; of the references a block is in memory at a time."""
    found = Nearest.none(k, np.full(len(queries.unit.rows), MIN_COSINE))
    for start, block in references.blocks():
        inputs = InputPair.of(queries, JoinInput.of(block, "vectors"))
        # What the blocks before have found makes the search of this one faster.
        i, j, cosines = row_pairs(inputs, min(k, len(block)), found.cutoffs)
        found.insert(i, start + j, cosines)
    return found
