"""Catalogs of a few images whose indexes say that they have many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from imgsim_assets.index.stage import index_table
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.vector_catalog import write_catalog


def write_large_catalog(store: Store, name: str, images: int, dim: int = 576) -> None:
    """Write a catalog of one image, and an index that counts `images`."""
    write_catalog(store, name, np.eye(1, dim, dtype=np.float32))

    def counted(base: Commit | None) -> PendingCommit:
        assert base is not None
        files = [replace(each, rows=each.rows and images) for each in base.files]
        return PendingCommit(files, base.inputs, base.properties)

    index_table(store, name).commit(counted)
