"""The vectors of a catalog's distinct images: the table `<name>/vectors/<fingerprint>`.

Rows are keyed by the sha256 of the image bytes; each encoder has a table of its own. Beside each
file of vectors is a small file of its keys, so that looking up keys reads no vectors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.catalog.image_key import image_key
from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.sha256_bits import first_bits
from imgsim_assets.encoders.vector_files import (
    AUDIT_ROWS,
    BAD,
    FILE_PAIR,
    FLAGS,
    bad_in,
    compact,
    compaction_is_due,
    count_bad,
    drop_damaged,
    drop_files,
    frames_with,
    vector_files,
    write_vectors,
)
from imgsim_assets.encoders.vector_rows import (
    NO_VECTORS,
    VectorRows,
    frame_of,
    rows_of,
    select_rows,
    vectors_in,
)
from imgsim_assets.encoders.wanted_images import WantedImages
from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.digest import RowsDigest
from imgsim_assets.storage.gc import GENERATION, PER_IMAGE, SHA256, new_generation
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets.storage.table_files import REBUILD
from imgsim_assets.text import counted

_DIM = "dim"
# Property: how often a table dropped damaged vectors. What is computed from the table has it too.
REBUILDS = "vector_rebuilds"


@dataclass(frozen=True)
class VectorAudit:
    """How many of some images have a vector, have one whose norm is not 1, and have none."""

    vectors: int
    bad: int
    missing: int


class VectorTable:
    """The vectors of one catalog under one encoder fingerprint.

    Attributes:
        fingerprint: of the encoder.
        table: `<name>/vectors/<fingerprint>`.
    """

    def __init__(self, store: Store, name: str, fingerprint: str) -> None:
        self._name = name
        self.fingerprint = fingerprint
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

    def has_all(self, images: Iterable[str]) -> bool:
        """Whether some images (sha256) all have a vector; drops no damaged file.

        Raises:
            CorruptFileError: A file of keys is damaged.
        """
        wanted, commit = set(images), self.table.latest()
        if commit is None or not wanted:
            return not wanted
        return not self._read_keys_of(commit, wanted, set.difference_update)

    def _read_keys(
        self, initial: Iterable[str], combine: Callable[[set[str], list[str]], None]
    ) -> set[str]:
        """A set combined with the keys of each file; starts again without damaged files."""
        commit = self.table.latest()
        if commit is None:
            return set(initial)
        try:
            return self._read_keys_of(commit, initial, combine)
        except CorruptFileError:
            self._drop_damaged(commit)
            return self._read_keys(initial, combine)

    def _read_keys_of(
        self, commit: Commit, initial: Iterable[str], combine: Callable[[set[str], list[str]], None]
    ) -> set[str]:
        result = set(initial)
        wanted = sorted(result) or None
        for file in vector_files(commit):
            if wanted is None or file.may_have(wanted):
                combine(result, self.table.read_file(file.keys)[SHA256].to_list())
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
            yield rows_of(frame)

    def audit(self, images: Iterable[pl.Series]) -> VectorAudit:
        """Check that images have a vector of norm 1; after a missing one, a generation begins.

        Holds eight bytes per image and one file of vectors at a time.

        Args:
            images: series of sha256, in any number of parts.

        Raises:
            StoreError: as `read` does.
        """
        prefixes = [np.empty(0, np.uint64), *map(first_bits, images)]
        expected = np.unique(np.concatenate(prefixes))
        has_vector = np.zeros(len(expected), dtype=bool)
        bad = 0
        for part in self.parts():
            keys = first_bits(pl.Series(part.sha256, dtype=pl.String))
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
                drop_files(self.table, {file.metadata[FILE_PAIR]}, _properties_after_drop)

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
        added = write_vectors(self.table, frame_of(rows), flags=flags)
        properties = {
            PER_IMAGE: True,
            FINGERPRINT: self.fingerprint,
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
        return select_rows(ordered, pl.concat(found, how="diagonal_relaxed"))

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
        wanted = WantedImages(images)
        try:
            for file in reversed(vector_files(commit) if commit is not None else []):
                if not wanted.may_be_in(file):
                    continue
                rows, positions = wanted.find(self.table.read_file(file.keys)[SHA256])
                if not len(rows):
                    continue
                vectors = vectors_in(self.table.read_file(file.rows, ["vector"]))
                wanted.missing[rows] = False
                is_whole = np.array_equal(positions, np.arange(len(vectors)))
                yield rows, vectors if is_whole else vectors[positions]
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
            f"{self._name}/embeddings again, in a shell by 'imgsim run'"
        )

    def _damaged(self, commit: Commit | None, error: CorruptFileError) -> StoreError:
        if commit is not None:
            self._drop_damaged(commit)
        return StoreError(
            f"{str(error).removesuffix(f'; {REBUILD}')}; its vectors are dropped: materialize "
            f"{self._name}/embeddings again, in a shell by 'imgsim run'"
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
        return drop_damaged(self.table, commit, _properties_after_drop)

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


def _properties_after_drop(base: Commit) -> Mapping[str, Any]:
    properties = {**base.properties, **_rebuilds(base, dropped=True)}
    return {**properties, GENERATION: new_generation()}


def _rebuilds(base: Commit | None, *, dropped: bool) -> Mapping[str, Any]:
    """The property REBUILDS of the next commit, left out while it is 0."""
    before = base.properties.get(REBUILDS, 0) if base is not None else 0
    rebuilds = int(before) + dropped
    return {REBUILDS: rebuilds} if rebuilds else {}
