"""Tables of random vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.storage.commit import DataFile
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.damage import flip_bit
from imgsim_assets_tests.support.vectors import noise

PRINT = "0123456789abcdef"


def row_files(table: VectorTable) -> list[DataFile]:
    """The newest files of vectors of a table."""
    commit = table.table.latest()
    assert commit is not None
    return commit.files_with_role()


def vector_table(store: Store, name: str = "shop") -> VectorTable:
    """The vectors of a catalog by the encoder PRINT."""
    return VectorTable(store, name, PRINT)


def vector_rows(keys: Sequence[str], seed: int = 0) -> VectorRows:
    """Random unit vectors of some images."""
    vectors = noise(len(keys), 6, seed)
    return VectorRows(keys, vectors, np.arange(1, len(keys) + 1, dtype=np.float32))


def damage_oldest(store: Store, table: VectorTable, role: str = "rows") -> Path:
    """Flip a bit in the oldest file of a role and return its path."""
    commit = table.table.latest()
    assert commit is not None
    return flip_bit(store, table.table, commit.files_with_role(role)[0])
