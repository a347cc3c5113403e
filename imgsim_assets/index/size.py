"""The size of a catalog's index, from its newest commit alone."""

from __future__ import annotations

from typing import NamedTuple

from imgsim_assets.storage.commit_log import CommitLog
from imgsim_assets.storage.files import Files


class IndexSize(NamedTuple):
    """How many images an index has, and how many numbers the vector of each."""

    images: int
    dim: int


def index_size(files: Files, name: str) -> IndexSize | None:
    """The size of a catalog's index; None for a catalog without one.

    Args:
        files: the root of the store.
        name: the catalog.

    Raises:
        StoreError: when the commit is damaged or of another format.
        OSError: when it cannot be read.
    """
    commit = CommitLog(files, f"{name}/index").latest()
    return IndexSize(commit.rows, commit.properties["dim"]) if commit is not None else None
