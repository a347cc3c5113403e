"""A digest of rows that depends on their values alone, for data versions."""

from __future__ import annotations

import hashlib

import polars as pl


def rows_digest(rows: pl.DataFrame, *context: str) -> str:
    """Hex sha256 over string columns, row by row in the given order, after the context.

    Every value is preceded by its length, so that no two lists of rows read the same.
    """
    digest = hashlib.sha256(f"{len(context)} {rows.width} ".encode())
    for part in context:
        digest.update(f"{len(part)}:{part}".encode())
    for row in rows.iter_rows():
        for value in row:
            digest.update(f"{len(value)}:{value}".encode())
    return digest.hexdigest()
