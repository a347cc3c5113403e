"""The vectors of a catalog's distinct images: the table `<name>/vectors/<fingerprint>`.

Rows are keyed by the sha256 of the image bytes; each encoder has a table of its own. Beside each
file of vectors is a small file of its keys, so that looking up keys reads no vectors.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.progress import Log
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.gc import PER_IMAGE, SHA256
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

KEYS = "keys"
_DIM = "dim"
# File metadata that a file of vectors and the file of its keys share.
_FILE_PAIR = "part"
# Property: how often a table dropped damaged vectors. What is computed from the table has it too.
REBUILDS = "vector_rebuilds"
# An append merges this many small files into one, never a larger one than this, so that it takes
# the same memory for a table of any size: up to five times as much.
_MAX_SMALL_FILES = 24
_MAX_MERGED_BYTES = 32 * 2**20
# File metadata: how many of its vectors did not have norm 1 when it was written.
_BAD = "not_normalized"
# Vectors whose norm is computed at once, and how far it may be from 1.
_AUDIT_ROWS = 1024
_UNIT_TOLERANCE = 1e-5


@dataclass(frozen=True)
class VectorRows:
    """Unit vectors of images.

    Attributes:
        sha256: of the bytes of n images.
        vectors: (n, d) float32, of norm 1.
        norms: (n,) float32, the norms of the encoder's features.
    """

    sha256: Sequence[str]
    vectors: NDArray[np.float32]
    norms: NDArray[np.float32]


@dataclass(frozen=True)
class VectorAudit:
    """How many of some images have a vector, have one whose norm is not 1, and have none."""

    vectors: int
    bad: int
    missing: int


NO_VECTORS = VectorRows([], np.empty((0, 0), np.float32), np.empty(0, np.float32))


def concat_rows(rows: Sequence[VectorRows]) -> VectorRows:
    """The rows of all parts, one after the other."""
    if not rows:
        return NO_VECTORS
    return VectorRows(
        [sha256 for part in rows for sha256 in part.sha256],
        np.concatenate([part.vectors for part in rows]),
        np.concatenate([part.norms for part in rows]),
    )


class VectorTable:
    """The vectors of one catalog under one encoder fingerprint."""

    def __init__(self, store: Store, name: str, fingerprint: str) -> None:
        self._store = store
        self._name = name
        self._fingerprint = fingerprint
        self.table: Table = store.table(f"{name}/vectors/{fingerprint}", key=SHA256)

    @property
    def dim(self) -> int | None:
        """Width of the vectors; None while there are none."""
        commit = self.table.latest()
        return commit.properties.get(_DIM) if commit is not None else None

    @property
    def rebuild_count(self) -> int:
        """How often damaged vectors were dropped.

        The vectors that replace them, perhaps from another processor, may differ in the last
        digits under the same sha256 and fingerprint.
        """
        commit = self.table.latest()
        return int(commit.properties.get(REBUILDS, 0)) if commit is not None else 0

    def keys(self) -> set[str]:
        """The sha256 of every image that has a vector."""
        return self._read_keys((), set.update)

    def missing(self, images: Iterable[str]) -> set[str]:
        """Those of some images (sha256) that have no vector; holds one file of keys at a time."""
        return self._read_keys(set(images), set.difference_update)

    def _read_keys(
        self, initial: Iterable[str], combine: Callable[[set[str], list[str]], None]
    ) -> set[str]:
        """A set combined with the keys of each file; starts again without damaged files."""
        commit = self.table.latest()
        result = set(initial)
        if commit is None:
            return result
        try:
            for file in commit.files_with_role(KEYS):
                combine(result, self.table.read_file(file)[SHA256].to_list())
        except CorruptFileError:
            self._drop_damaged(commit)
            return self._read_keys(initial, combine)
        return result

    def parts(self) -> Iterator[VectorRows]:
        """All vectors, file by file.

        Raises:
            StoreError: as `read` does.
        """
        commit = self.table.latest()
        if commit is None:
            return
        for file in commit.files_with_role():
            try:
                frame = self.table.read_file(file)
            except CorruptFileError as error:
                raise self._damaged(commit, error) from error
            yield _vector_rows(frame)

    def audit(self, images: Iterable[pl.Series]) -> VectorAudit:
        """Check that images have a vector of norm 1.

        Holds eight bytes per image and one file of vectors at a time.

        Args:
            images: series of sha256, in any number of parts.

        Raises:
            StoreError: as `read` does.
        """
        prefixes = [np.empty(0, np.uint64), *map(_hash_prefix, images)]
        expected = np.unique(np.concatenate(prefixes))
        has_vector = np.zeros(len(expected), dtype=bool)
        bad = 0
        for part in self.parts():
            keys = _hash_prefix(pl.Series(part.sha256, dtype=pl.String))
            positions = np.searchsorted(expected, keys)
            for start in range(0, len(keys), _AUDIT_ROWS):
                rows = np.flatnonzero(np.isin(keys[start : start + _AUDIT_ROWS], expected)) + start
                bad += _count_bad(part.vectors[rows])
                has_vector[positions[rows]] = True
        return VectorAudit(int(has_vector.sum()), bad, int((~has_vector).sum()))

    def is_recorded_normalized(self) -> bool:
        """Whether every file recorded, when it was written, that its vectors have norm 1.

        Reads no vectors.
        """
        commit = self.table.latest()
        files = commit.files_with_role() if commit is not None else ()
        return all(file.metadata.get(_BAD) == 0 for file in files)

    def drop_bad(self) -> None:
        """Commit the table without the files that hold a vector whose norm is not 1.

        The next run of the embeddings computes their vectors again.
        """
        commit = self.table.latest()
        for file in commit.files_with_role() if commit is not None else ():
            if file.metadata.get(_BAD) != 0 and _bad_in(self.table.read_file(file)):
                self._drop({file.metadata[_FILE_PAIR]})

    def append(self, rows: VectorRows) -> None:
        """Commit vectors; they replace vectors of the same sha256."""
        if not rows.sha256:
            return
        added = self._write(_frame(rows))
        dim = rows.vectors.shape[1]

        def change(base: Commit | None) -> PendingCommit:
            damaged: list[str] = []
            files = self._merge_small_files(base, damaged.append) if base is not None else []
            properties = {
                PER_IMAGE: True,
                FINGERPRINT: self._fingerprint,
                _DIM: dim,
                **_rebuilds(base, dropped=bool(damaged)),
            }
            return PendingCommit([*files, *added], properties=properties)

        self.table.commit(change)

    def _merge_small_files(self, commit: Commit, on_corrupt: Log) -> list[DataFile]:
        """The commit's files, the small ones merged when there are many."""
        small = [file for file in commit.files_with_role() if file.bytes <= _MAX_MERGED_BYTES // 4]
        if len(small) < _MAX_SMALL_FILES:
            return list(commit.files)
        chosen: list[DataFile] = []
        for file in small:
            if sum(file.bytes for file in chosen) + file.bytes > _MAX_MERGED_BYTES:
                break
            chosen.append(file)
        rows = self.table.read(replace(commit, files=tuple(chosen)), on_corrupt=on_corrupt)
        merged = {file.metadata[_FILE_PAIR] for file in chosen}
        remaining = [file for file in commit.files if file.metadata[_FILE_PAIR] not in merged]
        # Merged rows come first: they must not replace later ones.
        return [*(self._write(rows) if rows.width else []), *remaining]

    def _write(self, frame: pl.DataFrame) -> list[DataFile]:
        # Float vectors hardly compress, and compression would slow down reading.
        rows = self.table.write_rows(frame, compression="uncompressed")
        keys = self.table.write_rows(frame.select(SHA256), role=KEYS)
        part = {_FILE_PAIR: uuid.uuid4().hex}
        return [
            rows.with_metadata(**part, **{_BAD: _bad_in(frame)}),
            keys.with_metadata(**part),
        ]

    def read(self, images: Iterable[str]) -> VectorRows:
        """The vectors of some images (sha256), sorted by sha256.

        Raises:
            StoreError: when vectors are missing or damaged. Damaged vectors leave the table, so
                that the next run of the embeddings computes them again.
        """
        ordered = sorted(set(images))
        if not ordered:
            return NO_VECTORS
        missing = set(ordered) - self.keys()
        commit = self.table.latest()
        if missing or commit is None:
            raise StoreError(
                f"{self.table.name} lacks the vectors of {len(missing)} images; materialize "
                f"{self._name}/embeddings again"
            )
        try:
            return _select(ordered, self.table.read(commit))
        except CorruptFileError as error:
            raise self._damaged(commit, error) from error

    def _damaged(self, commit: Commit, error: CorruptFileError) -> StoreError:
        self._drop_damaged(commit)
        return StoreError(
            f"{error}; its vectors are dropped: materialize {self._name}/embeddings again"
        )

    def drop_damaged(self) -> int:
        """Drop the vectors in damaged files, so that the next run of the embeddings computes them.

        Returns:
            The number of files that were dropped.
        """
        commit = self.table.latest()
        return self._drop_damaged(commit) if commit is not None else 0

    def _drop_damaged(self, commit: Commit) -> int:
        """Commit the table without the files that fail their checksum, and without their keys."""
        return self._drop(
            {file.metadata[_FILE_PAIR] for file in commit.files if not self._is_intact(file)}
        )

    def _drop(self, pairs: set[str]) -> int:
        """Commit the table without some files; returns how many were dropped."""
        dropped = 0

        def change(base: Commit | None) -> PendingCommit | None:
            nonlocal dropped
            if base is None:
                return None
            kept = [file for file in base.files if file.metadata[_FILE_PAIR] not in pairs]
            dropped = len(base.files) - len(kept)
            if not dropped:
                return None
            return PendingCommit(
                kept, properties={**base.properties, **_rebuilds(base, dropped=True)}
            )

        self.table.commit(change)
        return dropped

    def _is_intact(self, file: DataFile) -> bool:
        try:
            self.table.read_bytes(file)
        except CorruptFileError:
            return False
        return True

    def copy_from_other_catalogs(self, missing: set[str]) -> int:
        """Copy and commit vectors of missing images from catalogs with the same fingerprint.

        Holds the vectors of some files at a time.

        Args:
            missing: sha256 of images; those that were found are removed from the set.

        Returns:
            The number of vectors that were copied.
        """
        before = len(missing)
        suffix = f"/vectors/{self._fingerprint}"
        for name in self._store.table_names():
            if missing and name.endswith(suffix) and name != self.table.name:
                self._copy_from(self._store.table(name, key=SHA256), missing)
        return before - len(missing)

    def _copy_from(self, other: Table, missing: set[str]) -> None:
        commit = other.latest()
        if commit is None:
            return
        vector_files = {file.metadata[_FILE_PAIR]: file for file in commit.files_with_role()}
        copied: list[VectorRows] = []
        # The newest first: a later vector replaces an earlier one.
        for keys in reversed(commit.files_with_role(KEYS)):
            try:
                shared = missing & set(other.read_file(keys)[SHA256])
                if shared:
                    rows = other.read_file(vector_files[keys.metadata[_FILE_PAIR]])
                    copied.append(_select(sorted(shared), rows))
            except CorruptFileError:
                continue  # the other catalog's own runs repair it
            missing -= shared
            if sum(part.vectors.nbytes for part in copied) >= _MAX_MERGED_BYTES:
                self.append(concat_rows(copied))
                copied.clear()
        self.append(concat_rows(copied))


def vectors_digest(items: pl.DataFrame, fingerprint: str, rebuild_count: int) -> str:
    """A data version of items (id, sha256): which item has which vector of which encoder."""
    # A count of 0 is left out, so that data versions of intact tables do not depend on it.
    return rows_digest(items, fingerprint, *([str(rebuild_count)] if rebuild_count else []))


def _rebuilds(base: Commit | None, *, dropped: bool) -> Mapping[str, Any]:
    """The property REBUILDS of the next commit, left out while it is 0."""
    before = base.properties.get(REBUILDS, 0) if base is not None else 0
    rebuilds = int(before) + dropped
    return {REBUILDS: rebuilds} if rebuilds else {}


def _count_bad(vectors: NDArray[np.float32]) -> int:
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return int((~(np.abs(norms - 1) <= _UNIT_TOLERANCE)).sum())


def _bad_in(frame: pl.DataFrame) -> int:
    """How many vectors of a file are not finite or not of norm 1."""
    vectors = _vector_rows(frame).vectors
    parts = range(0, len(vectors), _AUDIT_ROWS)
    return sum(_count_bad(vectors[start : start + _AUDIT_ROWS]) for start in parts)


def _hash_prefix(sha256: pl.Series) -> NDArray[np.uint64]:
    """The first 64 bits of hashes in hex, which tell millions of images apart."""
    numbers = sha256.str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64)
    return numbers.to_numpy().astype(np.uint64, copy=False)


def _select(ordered: Sequence[str], frame: pl.DataFrame) -> VectorRows:
    """The rows of some keys, in their order."""
    keys = pl.DataFrame({SHA256: ordered}, schema={SHA256: pl.String})
    return _vector_rows(keys.join(frame, on=SHA256, how="inner", maintain_order="left"))


def _vector_rows(frame: pl.DataFrame) -> VectorRows:
    vectors = np.ascontiguousarray(frame["vector"].to_numpy(), dtype=np.float32)
    return VectorRows(frame[SHA256].to_list(), vectors, frame["norm"].to_numpy())


def _frame(rows: VectorRows) -> pl.DataFrame:
    width = rows.vectors.shape[1]
    return pl.DataFrame(
        {SHA256: rows.sha256, "vector": rows.vectors, "norm": rows.norms},
        schema={SHA256: pl.String, "vector": pl.Array(pl.Float32, width), "norm": pl.Float32},
    )
