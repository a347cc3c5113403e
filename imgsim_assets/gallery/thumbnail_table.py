"""The table `image_thumbnails/<format>`: small JPEGs of images, by the sha256 of their bytes.

All galleries of a store share it. Garbage collection deletes the thumbnails of images that no
catalog has any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from imgsim_assets.encoders.vector_files import (
    compact,
    compaction_is_due,
    drop_damaged,
    frames_with,
    vector_files,
    write_vectors,
)
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.images.decode import DECODER_VERSION
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.gc import PER_IMAGE, SHA256
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

IMAGE_THUMBNAILS = "image_thumbnails"
_SCHEMA = {SHA256: pl.String, "jpeg": pl.Binary}


class ThumbnailTable:
    """The thumbnails of a store's images."""

    def __init__(self, store: Store) -> None:
        name = f"{IMAGE_THUMBNAILS}/jpeg_200.{DECODER_VERSION}"
        self.table: Table = store.table(name, key=SHA256)

    def read(self, images: Iterable[str]) -> dict[str, bytes]:
        """The thumbnails of images (sha256) that have one; those of damaged files have none."""
        missing = set(images)
        commit = self.table.latest()
        if commit is None or not missing:
            return {}
        frames = frames_with(self.table, vector_files(commit), missing, skip_damaged=True)
        return {sha256: jpeg for frame in frames for sha256, jpeg in frame.iter_rows()}

    def append(self, thumbnails: Mapping[str, bytes]) -> None:
        """Commit thumbnails by sha256."""
        if not thumbnails:
            return
        rows = pl.DataFrame(sorted(thumbnails.items()), schema=_SCHEMA, orient="row")
        bases: list[Commit | None] = []

        def properties(base: Commit | None) -> Mapping[str, Any]:
            bases.append(base)
            return {PER_IMAGE: True}

        commit = self.table.append(write_vectors(self.table, rows), properties)
        if commit is not None and compaction_is_due(bases[-1], commit):
            try:
                compact(self.table, commit)
            except CorruptFileError:
                drop_damaged(self.table, commit)
