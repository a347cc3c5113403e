"""Blocks of few rows, so that small catalogs have several of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from imgsim_assets.similarity import id_blocks, neighbor_lists, vector_blocks


@contextmanager
def small_blocks(rows: int = 2) -> Iterator[None]:
    """Vectors are in files and are read a few rows at a time; a file has rows of a few items.

    Rows of a few cached pairs are compared together.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_blocks, "MAX_IN_MEMORY", 0)
        patch.setattr(vector_blocks, "MAX_BLOCK_ROWS", rows)
        patch.setattr(neighbor_lists, "_MAX_PAIRS", 2 * rows)
        patch.setattr(id_blocks, "MIN_ROWS", 1)
        patch.setattr(id_blocks, "MAX_ROWS", 2 * rows)
        patch.setattr(id_blocks, "MEAN_ROWS", rows)
        yield
