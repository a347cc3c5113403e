"""The vectors of a catalog's distinct images: `<name>/vectors/<fingerprint>`.

Rows are keyed by the sha256 of the image bytes; another encoder is another table. Beside
each file of vectors lies a small file of its keys, so that finding out what is there does
not read what is there.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.progress import Log
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.gc import PER_IMAGE, SHA256
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

KEYS = "keys"
_DIM = "dim"
# How often damaged vectors were taken out of a table; in the properties of what was computed
# from one, how often they had been by then.
REBUILDS = "vector_rebuilds"
# As many small files are merged into one by the next run that adds to them, but never into a
# larger one than this, so that adding to a table of any size takes the same memory: up to five
# times as much.
_MAX_SMALL_FILES = 24
_MAX_MERGED_BYTES = 32 * 2**20
# Vectors whose length is computed at once, and how far it may be from 1.
_AUDITED = 1024
_UNIT_TOLERANCE = 1e-5


@dataclass(frozen=True)
class VectorRows:
    """Unit vectors (n, d) float32 of images, with the norm each had before: (n,) float32."""

    sha256: Sequence[str]
    vectors: NDArray[np.float32]
    norms: NDArray[np.float32]


@dataclass(frozen=True)
class VectorAudit:
    """How many of some images have a vector, have one that is no unit vector, and have none."""

    vectors: int
    bad: int
    missing: int


NO_VECTORS = VectorRows([], np.empty((0, 0), np.float32), np.empty(0, np.float32))


def concat_rows(rows: Sequence[VectorRows]) -> VectorRows:
    """One after the other, as one."""
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
        """Numbers of a vector; None as long as there is none."""
        commit = self.table.latest()
        return commit.properties.get(_DIM) if commit is not None else None

    @property
    def rebuild_count(self) -> int:
        """How often damaged vectors were taken out.

        What is computed in their place, on another processor perhaps, may differ from them in
        its last digits under the same sha256 and fingerprint.
        """
        commit = self.table.latest()
        return int(commit.properties.get(REBUILDS, 0)) if commit is not None else 0

    def keys(self) -> set[str]:
        """The sha256 of every image that has a vector."""
        commit = self.table.latest()
        if commit is None:
            return set()
        try:
            return _keys(self.table, commit)
        except CorruptFileError:
            self._drop_damaged(commit)
            return self.keys()

    def missing(self, wanted: Iterable[str]) -> set[str]:
        """Those of the wanted images that have no vector; the table's size does not matter."""
        asked = set(wanted)
        missing = set(asked)
        commit = self.table.latest()
        if commit is None:
            return missing
        try:
            for file in commit.files_with_role(KEYS):
                missing.difference_update(self.table.read_file(file)[SHA256])
        except CorruptFileError:
            self._drop_damaged(commit)
            return self.missing(asked)
        return missing

    def parts(self) -> Iterator[VectorRows]:
        """All vectors, file by file; raises StoreError as `read` does."""
        commit = self.table.latest()
        if commit is None:
            return
        for file in commit.files_with_role():
            try:
                frame = self.table.read_file(file)
            except CorruptFileError as error:
                raise self._damaged(commit, error) from error
            yield _rows(frame)

    def audit(self, wanted: Iterable[pl.Series]) -> VectorAudit:
        """Look at the vectors of images, given by their sha256, of any number.

        Eight bytes an image and one file of vectors are held at a time. Raises StoreError as
        `read` does.
        """
        parts = [_hash_prefix(part) for part in wanted]
        asked = np.unique(np.concatenate([np.empty(0, np.uint64), *parts]))
        found = np.zeros(len(asked), dtype=bool)
        bad = 0
        for part in self.parts():
            keys = _hash_prefix(pl.Series(part.sha256, dtype=pl.String))
            places = np.searchsorted(asked, keys)
            for start in range(0, len(keys), _AUDITED):
                piece = slice(start, start + _AUDITED)
                rows = np.flatnonzero(np.isin(keys[piece], asked)) + start
                lengths = np.linalg.norm(part.vectors[rows].astype(np.float64), axis=1)
                bad += int((~(np.abs(lengths - 1) <= _UNIT_TOLERANCE)).sum())
                found[places[rows]] = True
        return VectorAudit(int(found.sum()), bad, int((~found).sum()))

    def append(self, rows: VectorRows) -> None:
        """Commit more vectors; a sha256 that is there already is replaced."""
        if not rows.sha256:
            return
        added = self._write(_frame(rows))
        width = rows.vectors.shape[1]

        def change(base: Commit | None) -> PendingCommit:
            damaged: list[str] = []
            files = self._merged(base, damaged.append) if base is not None else []
            known = base.properties if base is not None else {}
            own = {PER_IMAGE: True, "fingerprint": self._fingerprint, _DIM: width}
            return PendingCommit(
                [*files, *added], properties={**own, **_counted(known, dropped=bool(damaged))}
            )

        self.table.commit(change)

    def _merged(self, commit: Commit, on_corrupt: Log) -> list[DataFile]:
        """The commit's files, the small ones of them merged when there are many."""
        small = [file for file in commit.files_with_role() if file.bytes <= _MAX_MERGED_BYTES // 4]
        if len(small) < _MAX_SMALL_FILES:
            return list(commit.files)
        chosen: list[DataFile] = []
        for file in small:
            if sum(file.bytes for file in chosen) + file.bytes > _MAX_MERGED_BYTES:
                break
            chosen.append(file)
        rows = self.table.read(replace(commit, files=tuple(chosen)), on_corrupt=on_corrupt)
        parts = {file.metadata["part"] for file in chosen}
        kept = [file for file in commit.files if file.metadata["part"] not in parts]
        # In front: what was there already must not replace what came after it.
        return [*(self._write(rows) if rows.width else []), *kept]

    def _write(self, frame: pl.DataFrame) -> list[DataFile]:
        # Float vectors hardly compress: reading them should not pay for trying.
        rows = self.table.write_rows(frame, compression="uncompressed")
        keys = self.table.write_rows(frame.select(SHA256), role=KEYS)
        part = uuid.uuid4().hex
        return [rows.with_metadata(part=part), keys.with_metadata(part=part)]

    def read(self, wanted: Iterable[str]) -> VectorRows:
        """The vectors of the wanted images, in sorted order of sha256.

        Raises StoreError when some are missing or damaged; what is damaged is taken out of the
        table, so that the next run of the embeddings computes it anew.
        """
        ordered = sorted(set(wanted))
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
            return _rows_of(ordered, self.table.read(commit))
        except CorruptFileError as error:
            raise self._damaged(commit, error) from error

    def _damaged(self, commit: Commit, error: CorruptFileError) -> StoreError:
        self._drop_damaged(commit)
        return StoreError(
            f"{error}; its vectors are dropped: materialize {self._name}/embeddings again"
        )

    def _drop_damaged(self, commit: Commit) -> None:
        """Take files that fail their checksum out of the table, and their keys with them."""
        damaged = {file.metadata["part"] for file in commit.files if not self._is_whole(file)}

        def change(base: Commit | None) -> PendingCommit | None:
            if base is None:
                return None
            kept = [file for file in base.files if file.metadata["part"] not in damaged]
            counted = _counted(base.properties, dropped=len(kept) < len(base.files))
            return PendingCommit(kept, properties={**base.properties, **counted})

        self.table.commit(change)

    def _is_whole(self, file: DataFile) -> bool:
        try:
            self.table.read_bytes(file)
        except CorruptFileError:
            return False
        return True

    def copy_from_other_catalogs(self, missing: set[str]) -> int:
        """Copy vectors of missing images from other catalogs with the same fingerprint.

        Returns how many were found; they are committed here and taken out of `missing`. However
        many vectors others have, the files of some are in memory at a time.
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
        rows_of = {file.metadata["part"]: file for file in commit.files_with_role()}
        found: list[VectorRows] = []
        # The newest first: a later vector replaces an earlier one.
        for keys in reversed(commit.files_with_role(KEYS)):
            try:
                shared = missing & set(other.read_file(keys)[SHA256])
                if shared:
                    rows = other.read_file(rows_of[keys.metadata["part"]])
                    found.append(_rows_of(sorted(shared), rows))
            except CorruptFileError:
                continue  # for the other catalog's own runs to mend
            missing -= shared
            if sum(part.vectors.nbytes for part in found) >= _MAX_MERGED_BYTES:
                self.append(concat_rows(found))
                found.clear()
        self.append(concat_rows(found))


def vectors_digest(items: pl.DataFrame, fingerprint: str, drops: int) -> str:
    """A data version of items (id, sha256): which has which vector of which encoder."""
    # Not counted as long as there were none, so that data versions stay what they were.
    return rows_digest(items, fingerprint, *([str(drops)] if drops else []))


def _counted(known: Mapping[str, Any], *, dropped: bool) -> dict[str, int]:
    """The property that counts drops, with one more if there was one; none as long as it is 0."""
    drops = int(known.get(REBUILDS, 0)) + dropped
    return {REBUILDS: drops} if drops else {}


def _keys(table: Table, commit: Commit) -> set[str]:
    keys: set[str] = set()
    for file in commit.files_with_role(KEYS):
        keys.update(table.read_file(file)[SHA256].to_list())
    return keys


def _hash_prefix(sha256: pl.Series) -> NDArray[np.uint64]:
    """The first 64 bits of hashes in hex: as good as all of them to tell millions apart."""
    numbers = sha256.str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64)
    return numbers.to_numpy().astype(np.uint64, copy=False)


def _rows_of(ordered: Sequence[str], frame: pl.DataFrame) -> VectorRows:
    """The rows of some keys, in their order."""
    wanted = pl.DataFrame({SHA256: ordered}, schema={SHA256: pl.String})
    return _rows(wanted.join(frame, on=SHA256, how="inner", maintain_order="left"))


def _rows(frame: pl.DataFrame) -> VectorRows:
    vectors = np.ascontiguousarray(frame["vector"].to_numpy(), dtype=np.float32)
    return VectorRows(frame[SHA256].to_list(), vectors, frame["norm"].to_numpy())


def _frame(rows: VectorRows) -> pl.DataFrame:
    width = rows.vectors.shape[1]
    return pl.DataFrame(
        {SHA256: rows.sha256, "vector": rows.vectors, "norm": rows.norms},
        schema={SHA256: pl.String, "vector": pl.Array(pl.Float32, width), "norm": pl.Float32},
    )
