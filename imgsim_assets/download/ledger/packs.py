"""The packs that a ledger's files name, so that a run notices a lost pack by one listing."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

import polars as pl

from imgsim_assets.download.status import OK
from imgsim_assets.storage.blobs import Blobs
from imgsim_assets.storage.commit import DataFile

# Metadata of a ledger's file: the names of the packs that hold the images of its rows.
PACKS = "packs"


@dataclass(frozen=True)
class PackCheck:
    """What became of the packs that a shard's files name.

    Args:
        gone: Named packs that are not in the store any more.
        moved_to: Packs that hold the images now, if any pack is gone.
        lost: The sha256 (hex) of images that no pack holds any more.
    """

    gone: Set[str] = frozenset()
    moved_to: Set[str] = frozenset()
    lost: Set[str] = frozenset()

    def remaining(self, named: Set[str]) -> set[str]:
        """Packs to name in place of `named`."""
        return {*(named - self.gone), *self.moved_to}


def named_packs(files: Iterable[DataFile]) -> set[str]:
    """The packs that files of a ledger name."""
    return {name for file in files for name in file.metadata.get(PACKS, ())}


def check_packs(blobs: Blobs, files: Iterable[DataFile], rows: pl.DataFrame) -> PackCheck:
    """Find the images that were lost with a pack.

    Garbage collection rewrites packs as well, so the images of a pack that is gone are looked up.

    Args:
        blobs: The images of the store.
        files: The ledger's files.
        rows: The rows in these files.
    """
    named = named_packs(files)
    gone = blobs.lost_packs(named)
    if not gone:
        return PackCheck()
    images = rows.filter(pl.col("status") == OK)["sha256"].unique()
    contained = pl.Series(blobs.contains(images), dtype=pl.Boolean)
    lost = set(images.filter(~contained))
    return PackCheck(gone, blobs.packs_of(images.filter(contained)), lost)


def packs_metadata(
    blobs: Blobs, rows: pl.DataFrame, packs: Iterable[str] = ()
) -> dict[str, list[str]]:
    """The metadata of a ledger's file with new rows, whose images are flushed, and other packs."""
    images = rows.filter(pl.col("status") == OK)["sha256"].unique()
    names = blobs.packs_of(images).union(packs)
    return {PACKS: sorted(names)} if names else {}
