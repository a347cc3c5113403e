"""A hash of the values of rows, for data versions."""

from __future__ import annotations

import hashlib

import polars as pl

_CHUNK_ROWS = 65_536


def rows_digest(rows: pl.DataFrame, *context: str) -> str:
    """Hash string columns, row by row in the given order.

    Every value is preceded by its length, so that different rows never hash the same text.

    Args:
        rows: String columns without nulls.
        context: Strings that are hashed before the rows.

    Returns:
        sha256, hex.

    Raises:
        ValueError: A value is null.
    """
    digest = RowsDigest(rows.width, *context)
    digest.update(rows)
    return digest.hexdigest()


class RowsDigest:
    """`rows_digest` of rows of `width` columns that come in chunks."""

    def __init__(self, width: int, *context: str) -> None:
        self._digest = hashlib.sha256(f"{len(context)} {width} ".encode())
        for part in context:
            self._digest.update(f"{len(part)}:{part}".encode())

    def update(self, chunk: pl.DataFrame) -> None:
        """Add the next rows."""
        for rows in chunk.iter_slices(_CHUNK_ROWS):
            self._digest.update(_length_prefixed(rows).encode())

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        return self._digest.hexdigest()


def _length_prefixed(rows: pl.DataFrame) -> str:
    """All values one after the other, each after its length in characters."""
    if any(rows.null_count().row(0)):
        raise ValueError(f"cannot hash rows with null values in {rows.columns}")
    values = [pl.format("{}:{}", pl.col(name).str.len_chars(), name) for name in rows.columns]
    text: str = rows.select(pl.concat_str(values).str.join()).item()
    return text
