"""The vectors of a catalog's distinct images: the table `<name>/vectors/<fingerprint>`.

Rows are keyed by the sha256 of the image bytes; each encoder has a table of its own. Beside each
file of vectors is a small file of its keys, so that looking up keys reads no vectors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.catalog.image_key import image_key
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.vector_files import (
    AUDIT_ROWS,
    BAD,
    FILE_PAIR,
    FLAGS,
    VectorFile,
    bad_in,
    compact,
    compaction_is_due,
    count_bad,
    frames_with,
    vector_files,
    write_vectors,
)
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.digest import RowsDigest
from imgsim_assets.storage.gc import GENERATION, PER_IMAGE, SHA256, new_generation
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets.text import counted

_DIM = "dim"
# Property: how often a table dropped damaged vectors. What is computed from the table has it too.
REBUILDS = "vector_rebuilds"
# Vectors that are copied from another catalog in one append.
_MAX_COPIED_BYTES = 32 * 2**20
# Hex digits of 64 bits.
_PREFIX_DIGITS = 16


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
    def generation(self) -> str | None:
        """Changes whenever vectors leave the table; None while there are none.

        An image that had a vector in this generation still has it.
        """
        return _generation(self.table.latest())

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
        wanted = set(images)
        return self._read_keys(wanted, set.difference_update) if wanted else wanted

    def _read_keys(
        self, initial: Iterable[str], combine: Callable[[set[str], list[str]], None]
    ) -> set[str]:
        """A set combined with the keys of each file; starts again without damaged files."""
        commit = self.table.latest()
        result = set(initial)
        if commit is None:
            return result
        wanted = sorted(result) or None
        try:
            for file in vector_files(commit):
                if wanted is None or file.may_have(wanted):
                    combine(result, self.table.read_file(file.keys)[SHA256].to_list())
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
        """Check that images have a vector of norm 1; after a missing one, a generation begins.

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
            for start in range(0, len(keys), AUDIT_ROWS):
                rows = np.flatnonzero(np.isin(keys[start : start + AUDIT_ROWS], expected)) + start
                bad += count_bad(part.vectors[rows])
                has_vector[positions[rows]] = True
        missing = int((~has_vector).sum())
        if missing:
            self.begin_generation()
        return VectorAudit(int(has_vector.sum()), bad, missing)

    def is_recorded_normalized(self) -> bool:
        """Whether every file recorded, when it was written, that its vectors have norm 1.

        Reads no vectors.
        """
        commit = self.table.latest()
        files = commit.files_with_role() if commit is not None else ()
        return all(file.metadata.get(BAD) == 0 for file in files)

    def drop_bad(self) -> None:
        """Commit the table without the files that hold a vector whose norm is not 1.

        The next run of the embeddings computes their vectors again.
        """
        commit = self.table.latest()
        for file in commit.files_with_role() if commit is not None else ():
            if file.metadata.get(BAD) != 0 and bad_in(self.table.read_file(file)):
                self._drop({file.metadata[FILE_PAIR]})

    def flagged(self) -> dict[str, set[str]]:
        """The sha256 of images that have a vector, by each of `vector_files.FLAGS`."""
        commit = self.table.latest()
        flagged: dict[str, set[str]] = {flag: set() for flag in FLAGS}
        for file in vector_files(commit) if commit is not None else ():
            if file.flags:
                with contextlib.suppress(CorruptFileError):  # the next reader drops it
                    images = self.table.read_file(file.keys)[SHA256].to_list()
                    for flag in file.flags:
                        flagged[flag].update(images)
        return flagged

    def append(self, rows: VectorRows, *, flags: Iterable[str] = ()) -> None:
        """Commit vectors; they replace vectors of the same sha256.

        `flags` are those of `vector_files.FLAGS` that all the images have.
        """
        if not rows.sha256:
            return
        added = write_vectors(self.table, _frame(rows), flags=flags)
        properties = {
            PER_IMAGE: True,
            FINGERPRINT: self._fingerprint,
            _DIM: rows.vectors.shape[1],
        }

        bases: list[Commit | None] = []

        def next_properties(base: Commit | None) -> Mapping[str, Any]:
            bases.append(base)
            generation = _generation(base) or new_generation()
            return {**properties, **_rebuilds(base, dropped=False), GENERATION: generation}

        commit = self.table.append(added, next_properties)
        if commit is not None and compaction_is_due(bases[-1], commit):
            try:
                compact(self.table, commit)
            except CorruptFileError:
                self._drop_damaged(commit)

    def read(self, images: Iterable[str]) -> VectorRows:
        """The vectors of some images (sha256), sorted by sha256.

        Reads the files that have one of them, and the keys of those that may have.

        Raises:
            StoreError: when vectors are missing or damaged. Damaged vectors leave the table. In
                both cases the next run of the embeddings computes them again.
        """
        ordered = sorted(set(images))
        if not ordered:
            return NO_VECTORS
        found = list(self._frames(set(ordered)))
        return _select(ordered, pl.concat(found, how="diagonal_relaxed"))

    def read_rows(
        self, images: RowBlocks
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The vectors of some images, one file of vectors at a time.

        Holds 21 bytes for each image beside the file.

        Args:
            images: n rows with the column sha256, the same one any number of times.

        Yields:
            Positions (p,) in `images` and their vectors (p, d); each position once, in no order.

        Raises:
            StoreError: as `read` does, after the parts that were found.
        """
        commit = self.table.latest()
        wanted = _WantedImages(images)
        try:
            for file in reversed(vector_files(commit) if commit is not None else []):
                if not wanted.may_be_in(file):
                    continue
                if not len(wanted.find(self.table.read_file(file.keys)[SHA256])[0]):
                    continue
                frame = self.table.read_file(file.rows)
                rows, positions = wanted.find(frame[SHA256])
                wanted.missing[rows] = False
                yield rows, _vectors(frame)[positions]
        except CorruptFileError as error:
            raise self._damaged(commit, error) from error
        if wanted.missing.any():
            raise self._lacking(wanted.missing_count)

    def _frames(self, missing: set[str]) -> Iterator[pl.DataFrame]:
        commit = self.table.latest()
        if commit is not None and missing:
            try:
                yield from frames_with(self.table, vector_files(commit), missing)
            except CorruptFileError as error:
                raise self._damaged(commit, error) from error
        if missing:
            raise self._lacking(len(missing))

    def _lacking(self, count: int) -> StoreError:
        self.begin_generation()
        return StoreError(
            f"{self.table.name} lacks the vectors of {counted(count, 'image')}; materialize "
            f"{self._name}/embeddings again"
        )

    def _damaged(self, commit: Commit | None, error: CorruptFileError) -> StoreError:
        if commit is not None:
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
            {file.metadata[FILE_PAIR] for file in commit.files if not self._is_intact(file)}
        )

    def _drop(self, pairs: set[str]) -> int:
        """Commit the table without some files; returns how many were dropped."""
        dropped = 0

        def change(base: Commit | None) -> PendingCommit | None:
            nonlocal dropped
            if base is None:
                return None
            kept = [file for file in base.files if file.metadata[FILE_PAIR] not in pairs]
            dropped = len(base.files) - len(kept)
            if not dropped:
                return None
            properties = {**base.properties, **_rebuilds(base, dropped=True)}
            return PendingCommit(kept, properties={**properties, GENERATION: new_generation()})

        self.table.commit(change)
        return dropped

    def begin_generation(self, *, first: bool = False) -> None:
        """Let the next runs of the embeddings look up the vectors of all images again.

        With `first`, only in a table of an earlier version, which has none.
        """

        def change(base: Commit | None) -> PendingCommit | None:
            if base is None or (first and _generation(base) is not None):
                return None
            properties = {**base.properties, GENERATION: new_generation()}
            return PendingCommit(base.files, inputs=base.inputs, properties=properties)

        self.table.commit(change)

    def _is_intact(self, file: DataFile) -> bool:
        try:
            self.table.read_bytes(file)
        except CorruptFileError:
            return False
        return True

    def copy_from_other_catalogs(
        self, missing: set[str], *, accepted_flags: Iterable[str] = ()
    ) -> int:
        """Copy and commit vectors of missing images from catalogs with the same fingerprint.

        Holds the vectors of some files at a time.

        Args:
            missing: sha256 of images; those that were found are removed from the set.
            accepted_flags: those of `vector_files.FLAGS` that the images may have.

        Returns:
            The number of vectors that were copied.
        """
        before = len(missing)
        suffix = f"/vectors/{self._fingerprint}"
        for name in self._store.table_names():
            if missing and name.endswith(suffix) and name != self.table.name:
                self._copy_from(self._store.table(name, key=SHA256), missing, set(accepted_flags))
        return before - len(missing)

    def _copy_from(self, other: Table, missing: set[str], accepted_flags: set[str]) -> None:
        commit = other.latest()
        by_flags: dict[frozenset[str], list[VectorFile]] = {}
        for file in vector_files(commit) if commit is not None else ():
            if file.flags <= accepted_flags:
                by_flags.setdefault(file.flags, []).append(file)
        for flags, files in by_flags.items():
            self._copy_files(other, files, missing, flags)

    def _copy_files(
        self, other: Table, files: Sequence[VectorFile], missing: set[str], flags: frozenset[str]
    ) -> None:
        copied: list[VectorRows] = []
        for rows in frames_with(other, files, missing, skip_damaged=True):
            copied.append(_vector_rows(rows))
            if sum(part.vectors.nbytes for part in copied) >= _MAX_COPIED_BYTES:
                self.append(concat_rows(copied), flags=flags)
                copied.clear()
        self.append(concat_rows(copied), flags=flags)


class _WantedImages:
    """Images (n,) whose vectors are read, by 128 bits of their sha256.

    Attributes:
        missing: (n,) whose vectors have not been found yet.
    """

    def __init__(self, images: RowBlocks) -> None:
        self.missing = np.ones(len(images), dtype=bool)
        hashes = np.empty(len(images), np.uint64), np.empty(len(images), np.uint64)
        for start, rows in images.blocks([SHA256]):
            for column, of_block in zip(hashes, _hash_parts(rows[SHA256]), strict=True):
                column[start : start + rows.height] = of_block
        self._order = np.lexsort(hashes[::-1]).astype(np.uint32)
        self._prefix, self._rest = (column[self._order] for column in hashes)

    def may_be_in(self, file: VectorFile) -> bool:
        """Whether the prefix of a file allows one of the missing images."""
        lowest, highest = (int(file.prefix.ljust(_PREFIX_DIGITS, digit), 16) for digit in "0f")
        start = np.searchsorted(self._prefix, np.uint64(lowest), "left")
        stop = np.searchsorted(self._prefix, np.uint64(highest), "right")
        return bool(self.missing[self._order[start:stop]].any())

    def find(self, keys: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which missing images are among some keys: their row numbers, and positions in keys."""
        prefix, rest = _hash_parts(keys)
        start, stop = (np.searchsorted(self._prefix, prefix, side) for side in ("left", "right"))
        counts = stop - start
        positions = np.repeat(np.arange(len(keys)), counts)
        at = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
        at += start[positions]
        rows = self._order[at].astype(np.int64)
        found = self.missing[rows] & (self._rest[at] == rest[positions])
        return rows[found], positions[found]

    @property
    def missing_count(self) -> int:
        """How many different images are missing."""
        missing = self.missing[self._order]
        pairs = np.stack([self._prefix[missing], self._rest[missing]], axis=1)
        return len(np.unique(pairs, axis=0))


def vectors_digest(images: RowBlocks, fingerprint: str, rebuild_count: int) -> str:
    """A data version of images (id, image, sha256): which one has which vector of which encoder."""
    # A count of 0 is left out, so that data versions of intact tables do not depend on it.
    rebuilds = [str(rebuild_count)] if rebuild_count else []
    digest = RowsDigest(2, fingerprint, *rebuilds)
    for _, block in images.blocks():
        digest.update(block.select(image_key(), SHA256))
    return digest.hexdigest()


def _generation(commit: Commit | None) -> str | None:
    return commit.properties.get(GENERATION) if commit is not None else None


def _rebuilds(base: Commit | None, *, dropped: bool) -> Mapping[str, Any]:
    """The property REBUILDS of the next commit, left out while it is 0."""
    before = base.properties.get(REBUILDS, 0) if base is not None else 0
    rebuilds = int(before) + dropped
    return {REBUILDS: rebuilds} if rebuilds else {}


def _hash_bits(sha256: pl.Series, start: int) -> NDArray[np.uint64]:
    """The first 64 bits of hashes in hex, or the last; they tell millions of images apart."""
    numbers = sha256.str.slice(start, _PREFIX_DIGITS).str.to_integer(base=16, dtype=pl.UInt64)
    return numbers.to_numpy().astype(np.uint64, copy=False)


def _hash_prefix(sha256: pl.Series) -> NDArray[np.uint64]:
    return _hash_bits(sha256, 0)


def _hash_parts(sha256: pl.Series) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first 64 bits of hashes in hex, and the last 64."""
    return _hash_bits(sha256, 0), _hash_bits(sha256, -_PREFIX_DIGITS)


def _select(ordered: Sequence[str], frame: pl.DataFrame) -> VectorRows:
    """The rows of some keys, in their order."""
    keys = pl.DataFrame({SHA256: ordered}, schema={SHA256: pl.String})
    return _vector_rows(keys.join(frame, on=SHA256, how="inner", maintain_order="left"))


def _vector_rows(frame: pl.DataFrame) -> VectorRows:
    return VectorRows(frame[SHA256].to_list(), _vectors(frame), frame["norm"].to_numpy())


def _vectors(frame: pl.DataFrame) -> NDArray[np.float32]:
    return np.ascontiguousarray(frame["vector"].to_numpy(), dtype=np.float32)


def _frame(rows: VectorRows) -> pl.DataFrame:
    width = rows.vectors.shape[1]
    return pl.DataFrame(
        {SHA256: rows.sha256, "vector": rows.vectors, "norm": rows.norms},
        schema={SHA256: pl.String, "vector": pl.Array(pl.Float32, width), "norm": pl.Float32},
    )
