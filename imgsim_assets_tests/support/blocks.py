"""Blocks of few rows, so that small catalogs have several of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imgsim_assets.similarity import neighbor_lists, vector_blocks
from imgsim_assets.storage import id_blocks, row_blocks


@contextmanager
def small_blocks(rows: int = 2) -> Iterator[None]:
    """Vectors are in files and are read a few rows at a time; a file has rows of a few items.

    Rows of a few cached pairs are compared together.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_blocks, "vectors_in_memory", lambda: 0)
        patch.setattr(vector_blocks, "MAX_BLOCK_ROWS", rows)
        patch.setattr(neighbor_lists, "pairs_in_memory", lambda: 2 * rows)
        patch.setattr(row_blocks, "BLOCK_ROWS", rows)
        patch.setattr(id_blocks, "MIN_ROWS", 1)
        patch.setattr(id_blocks, "MAX_ROWS", 2 * rows)
        patch.setattr(id_blocks, "MEAN_ROWS", rows)
        yield
