"""Committing the vectors of encoded batches while further batches are encoded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np

from imgsim_assets.encoders.engine import EncodedBatch
from imgsim_assets.encoders.known_failures import KnownFailures
from imgsim_assets.encoders.vector_files import FLAGS
from imgsim_assets.encoders.vector_rows import VectorRows, concat_rows
from imgsim_assets.encoders.vectors import VectorTable

COMMIT_EVERY_SECONDS = 5.0
# Batches that become unit vectors at once.
_MERGED = 32


class VectorWriter:
    """Commits vectors every few seconds, in a thread of its own.

    A context manager: leaving it commits the rest, also when a run fails or is canceled.

    Args:
        vectors: the table that receives the vectors.
        known: has the flags of images; receives those that have no vector.
    """

    def __init__(self, vectors: VectorTable, known: KnownFailures) -> None:
        self._vectors = vectors
        self._known = known
        self._waiting: list[EncodedBatch[str]] = []
        self._writing: list[EncodedBatch[str]] = []
        self._written: Future[None] | None = None
        self._began = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "vectors")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if self._written is not None and self._written.exception() is None:
            self._writing.clear()
        # What could not be written is tried once more.
        self._append([*self._writing, *self._waiting])

    def add(self, batch: EncodedBatch[str]) -> None:
        """Take the features of a batch, to be committed as unit vectors.

        Raises:
            StoreError, OSError: an earlier batch could not be committed.
        """
        self._waiting.append(batch)
        if time.monotonic() - self._began < COMMIT_EVERY_SECONDS:
            return
        if self._written is not None:
            self._written.result()
        self._writing, self._waiting = self._waiting, []
        self._written = self._thread.submit(self._append, self._writing)
        self._began = time.monotonic()

    def _append(self, batches: Sequence[EncodedBatch[str]]) -> None:
        """Commit vectors, those of images with flags apart."""
        rows = concat_rows([self._unit_rows(part) for part in _merged(batches)])
        by_flags: dict[tuple[str, ...], list[int]] = {}
        for row, sha256 in enumerate(rows.sha256):
            flags = tuple(flag for flag in FLAGS if sha256 in self._known.flagged[flag])
            by_flags.setdefault(flags, []).append(row)
        for flags, chosen in by_flags.items():
            self._vectors.append(_select(rows, chosen), flags=flags)

    def _unit_rows(self, encoded: EncodedBatch[str]) -> VectorRows:
        """Features as unit vectors; those that have no direction are failures."""
        raw = encoded.features.astype(np.float64)
        norms = np.sqrt((raw * raw).sum(axis=1))
        has_direction = np.isfinite(norms) & (norms > 0)
        for row in np.flatnonzero(~has_direction).tolist():
            self._known.reasons[encoded.keys[row]] = (
                ("zero_vector", "the encoder returned a zero vector for this image")
                if norms[row] == 0
                else ("not_finite", "the features of this image overflow")
            )
        rows = np.flatnonzero(has_direction)
        unit = (raw[rows] / norms[rows, None]).astype(np.float32)
        keys = [encoded.keys[row] for row in rows.tolist()]
        return VectorRows(keys, unit, norms[rows].astype(np.float32))


def _merged(batches: Sequence[EncodedBatch[str]]) -> Iterator[EncodedBatch[str]]:
    """Larger batches, whose arithmetic takes less time per image."""
    for start in range(0, len(batches), _MERGED):
        parts = batches[start : start + _MERGED]
        keys = [key for part in parts for key in part.keys]
        yield EncodedBatch(keys, np.concatenate([part.features for part in parts]))


def _select(rows: VectorRows, chosen: Sequence[int]) -> VectorRows:
    keys = [rows.sha256[row] for row in chosen]
    return VectorRows(keys, rows.vectors[chosen], rows.norms[chosen])
