"""A digest of rows that depends on their values alone, for data versions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import polars as pl

_AT_ONCE = 65_536


def rows_digest(rows: pl.DataFrame, *context: str) -> str:
    """Hex sha256 over string columns, row by row in the given order, after the context.

    Every value is preceded by its length, so that no two lists of rows read the same.
    """
    return digest_of([rows], rows.width, *context)


def digest_of(pieces: Iterable[pl.DataFrame], width: int, *context: str) -> str:
    """`rows_digest` of rows of `width` columns that come in pieces."""
    digest = hashlib.sha256(f"{len(context)} {width} ".encode())
    for part in context:
        digest.update(f"{len(part)}:{part}".encode())
    for piece in pieces:
        for rows in piece.iter_slices(_AT_ONCE):
            digest.update(_marked(rows).encode())
    return digest.hexdigest()


def _marked(rows: pl.DataFrame) -> str:
    """All values one after the other, each behind its length in characters."""
    if any(rows.null_count().row(0)):
        raise ValueError(f"a digest is over values, and of {rows.columns} some are null")
    values = [part for name in rows.columns for part in (_length(name), pl.lit(":"), pl.col(name))]
    text: str = rows.select(pl.concat_str(values).str.join()).item()
    return text


def _length(name: str) -> pl.Expr:
    return pl.col(name).str.len_chars().cast(pl.String)
