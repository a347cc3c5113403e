"""Images that other rows share with a file that has changed or is gone."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from imgsim_assets.download.ledger.table import with_all_columns
from imgsim_assets.download.status import OK
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.gc import LOCATION, REFERS_TO_BLOBS
from imgsim_assets.storage.store import Store


def report_unreadable(store: Store, replaced: Sequence[str]) -> None:
    """Let the next runs of other shards and catalogs read their own files again.

    Args:
        store: the store.
        replaced: sha256 (hex) of images whose path names another image now, or none. Those that
            rows still need and that the store finds nowhere are reported missing.
    """
    found = store.blobs.contains(replaced)
    lost = [
        sha256
        for sha256, is_listed in zip(replaced, found, strict=True)
        if is_listed and not store.blobs.is_readable(sha256)
    ]
    if not lost:
        return
    needed: set[str] = set()
    for name in store.table_names():
        table = store.table(name)
        commit = table.latest()
        if commit is None or commit.properties.get(REFERS_TO_BLOBS) is not True:
            continue
        try:
            rows = with_all_columns(table.read(commit))
        except CorruptFileError:
            continue  # its own runs repair it
        in_place = rows.filter((pl.col("status") == OK) & pl.col(LOCATION).is_not_null())
        needed.update(in_place["sha256"])
    for sha256 in needed.intersection(lost):
        store.blobs.report_missing(sha256)
