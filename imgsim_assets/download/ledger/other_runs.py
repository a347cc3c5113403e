"""Rows that other runs commit to a shard's ledger while this run works on the shard.

A lease keeps two runs from working on one shard at once. It is no guarantee: a run that was
suspended for longer than its lease lasts continues beside the run that took over.
"""

from __future__ import annotations

import uuid
from datetime import datetime

import polars as pl

from imgsim_assets.download.ledger.shard_ledger import ShardLedger
from imgsim_assets.download.ledger.table import IMAGE_KEY, utc_now
from imgsim_assets.download.status import OK
from imgsim_assets.storage.commit import Commit


class OtherRuns:
    """What other runs have committed for a shard since `started`.

    `token` marks the files of this run in their metadata.
    """

    def __init__(self, ledger: ShardLedger, started: datetime) -> None:
        self.token = uuid.uuid4().hex
        self._ledger = ledger
        self._started = started
        self._seen_files: set[str] = set()
        self._new_images: set[tuple[str, str]] = set()
        self._fetched = pl.DataFrame(schema=dict.fromkeys(IMAGE_KEY, pl.String))

    def mark_seen(self, commit: Commit | None) -> None:
        """Ignore the files of a commit that this run has read."""
        self._seen_files.update(file.path for file in self._ledger.files(commit))

    def poll(self, commit: Commit | None) -> None:
        """Read the files of a commit that were not seen before."""
        files = self._ledger.files(commit)
        unseen = [file for file in files if file.path not in self._seen_files]
        self._seen_files.update(file.path for file in files)
        for file in unseen:
            if file.metadata.get("run") != self.token:
                since_start = pl.col("fetched_at").is_between(self._started, utc_now())
                rows = self._ledger.read_file(file).filter(since_start)
                self._new_images.update(rows.select(IMAGE_KEY).iter_rows())
                fetched = rows.filter(pl.col("status") == OK).select(IMAGE_KEY)
                self._fetched = pl.concat([self._fetched, fetched])

    def take_new_images(self) -> set[tuple[str, str]]:
        """The images (id, url) that other runs have requested since the last call."""
        images, self._new_images = self._new_images, set()
        return images

    def drop_superseded(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`rows` without failures of urls that another run has fetched."""
        if not self._fetched.height:
            return rows
        has_failed = (pl.col("status") != OK) | pl.col("revalidation_error").is_not_null()
        failed = rows.filter(has_failed).join(self._fetched, on=IMAGE_KEY, how="anti")
        return pl.concat([rows.filter(~has_failed), failed])
