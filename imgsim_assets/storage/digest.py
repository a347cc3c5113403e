"""A digest of rows that depends on their values alone, for data versions."""

from __future__ import annotations

import hashlib

import polars as pl

_AT_ONCE = 65_536


def rows_digest(rows: pl.DataFrame, *context: str) -> str:
    """Hex sha256 over string columns, row by row in the given order, after the context.

    Every value is preceded by its length, so that no two lists of rows read the same.
    """
    digest = RowsDigest(rows.width, *context)
    digest.update(rows)
    return digest.hexdigest()


class RowsDigest:
    """`rows_digest` of rows of `width` columns that come in pieces."""

    def __init__(self, width: int, *context: str) -> None:
        self._digest = hashlib.sha256(f"{len(context)} {width} ".encode())
        for part in context:
            self._digest.update(f"{len(part)}:{part}".encode())

    def update(self, piece: pl.DataFrame) -> None:
        """Take in the rows that come next."""
        for rows in piece.iter_slices(_AT_ONCE):
            self._digest.update(_marked(rows).encode())

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        return self._digest.hexdigest()


def _marked(rows: pl.DataFrame) -> str:
    """All values one after the other, each behind its length in characters."""
    if any(rows.null_count().row(0)):
        raise ValueError(f"a digest is over values, and of {rows.columns} some are null")
    values = [part for name in rows.columns for part in (_length(name), pl.lit(":"), pl.col(name))]
    text: str = rows.select(pl.concat_str(values).str.join()).item()
    return text


def _length(name: str) -> pl.Expr:
    return pl.col(name).str.len_chars().cast(pl.String)
