"""Committing a shard's rows of the embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from imgsim_assets.encoders.known_failures import EarlierRows
from imgsim_assets.encoders.probe import PROBE
from imgsim_assets.encoders.recorded import ENCODER, FINGERPRINT, to_metadata
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.commit import Commit, PendingCommit, is_compacted, replace_shard
from imgsim_assets.storage.shards import Shard
from imgsim_assets.storage.table import Table


class EmbeddingsWriter:
    """Commits the rows of shards, unless they are what the table has.

    Args:
        table: the embeddings of a catalog.
        settings: the encoder, which the commits record.
        fingerprint: of the encoder.
    """

    def __init__(self, table: Table, settings: EncoderSettings, fingerprint: str) -> None:
        self._table = table
        self._settings = settings
        self._fingerprint = fingerprint

    def commit(
        self,
        shard: Shard,
        rows: pl.DataFrame,
        metadata: Mapping[str, Any],
        earlier: EarlierRows,
        *,
        base: Commit | None,
        ledger: Commit,
        probe: str | None,
    ) -> Commit:
        """The commit that has the rows: the base, or a new one.

        Args:
            shard: the shard of the rows.
            rows: of `table.status_rows`.
            metadata: of the file of these rows.
            earlier: the rows that the base has.
            base: the newest commit, read before.
            ledger: the commit of the images that the rows come from.
            probe: the probe vectors that were measured; None leaves those of the last version.
        """
        if base is not None and self._has(base, shard, rows, metadata, earlier):
            return base

        def change(newest: Commit | None) -> PendingCommit | None:
            if newest is not None and self._has(newest, shard, rows, metadata, EarlierRows()):
                return None
            file = self._table.write_rows(rows).with_metadata(**metadata)
            input_version = newest.inputs.get("images", 0) if newest is not None else 0
            return PendingCommit(
                replace_shard(newest, shard, [file]),
                inputs={"images": max(ledger.version, input_version)},
                properties={
                    FINGERPRINT: self._fingerprint,
                    ENCODER: to_metadata(self._settings),
                    **self._probe_property(newest, probe),
                },
            )

        commit = self._table.commit(change)
        if commit is None:
            raise AssertionError("the first run of a shard always commits")
        return commit

    def _probe_property(self, newest: Commit | None, probe: str | None) -> Mapping[str, str]:
        """The probe vectors that were measured, else those of the last version."""
        if probe is not None:
            return {PROBE: probe}
        if newest is None or newest.properties[FINGERPRINT] != self._fingerprint:
            return {}
        return {PROBE: newest.properties[PROBE]} if PROBE in newest.properties else {}

    def _has(
        self,
        commit: Commit,
        shard: Shard,
        rows: pl.DataFrame,
        metadata: Mapping[str, Any],
        earlier: EarlierRows,
    ) -> bool:
        """Whether a commit has the rows of a shard as one file with that metadata."""
        if not is_compacted(commit, shard):
            return False
        file = commit.files_of_shard(shard)[0]
        if file.metadata != metadata or file.rows != rows.height:
            return False
        try:
            committed = earlier.frames.get(file.path)
            return (self._table.read_file(file) if committed is None else committed).equals(rows)
        except CorruptFileError:
            return False
