"""Unit vectors in memory, and the frames that hold them in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.storage.gc import SHA256


@dataclass(frozen=True)
class VectorRows:
    """Unit vectors of images.

    Attributes:
        sha256: of the bytes of n images.
        vectors: (n, d) float32, of norm 1.
        norms: (n,) float32, the norms of the encoder's features.
    """

    sha256: Sequence[str]
    vectors: NDArray[np.float32]
    norms: NDArray[np.float32]


NO_VECTORS = VectorRows([], np.empty((0, 0), np.float32), np.empty(0, np.float32))


def concat_rows(rows: Sequence[VectorRows]) -> VectorRows:
    """The rows of all parts, one after the other."""
    if not rows:
        return NO_VECTORS
    return VectorRows(
        [sha256 for part in rows for sha256 in part.sha256],
        np.concatenate([part.vectors for part in rows]),
        np.concatenate([part.norms for part in rows]),
    )


def select_rows(ordered: Sequence[str], frame: pl.DataFrame) -> VectorRows:
    """The rows of some keys, in their order."""
    keys = pl.DataFrame({SHA256: ordered}, schema={SHA256: pl.String})
    return rows_of(keys.join(frame, on=SHA256, how="inner", maintain_order="left"))


def rows_of(frame: pl.DataFrame) -> VectorRows:
    """The rows of a file of vectors."""
    return VectorRows(frame[SHA256].to_list(), vectors_in(frame), frame["norm"].to_numpy())


def vectors_in(frame: pl.DataFrame) -> NDArray[np.float32]:
    """The vectors (n, d) of a file."""
    return np.ascontiguousarray(frame["vector"].to_numpy(), dtype=np.float32)


def frame_of(rows: VectorRows) -> pl.DataFrame:
    """Rows as a file has them."""
    width = rows.vectors.shape[1]
    return pl.DataFrame(
        {SHA256: rows.sha256, "vector": rows.vectors, "norm": rows.norms},
        schema={SHA256: pl.String, "vector": pl.Array(pl.Float32, width), "norm": pl.Float32},
    )
