"""The files of a table of vectors or of local features, and their compaction by prefix of sha256.

An append adds one file of vectors, in the order they arrived, and a small file of its keys. When
there are many such files, compaction sorts their rows into files by the first hex digit of the
sha256, and the rows of a full prefix into files by one digit more. A reader of a few keys therefore
reads only the files whose prefix is that of a key, and of those only the ones that have it.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.gc import SHA256
from imgsim_assets.storage.table import Table

KEYS: Final = "keys"
# File metadata that a file of vectors and the file of its keys share.
FILE_PAIR: Final = "part"
# File metadata: how many of its vectors did not have norm 1 when it was written.
BAD: Final = "not_normalized"
# File metadata of vectors that only some settings accept, and of their keys: of truncated images,
# and of images of a single color. They stay in files of their own.
TRUNCATED: Final = "truncated"
BLANK: Final = "blank"
FLAGS: Final = (TRUNCATED, BLANK)
# Vectors whose norm is computed at once, and how far it may be from 1.
AUDIT_ROWS: Final = 1024
_UNIT_TOLERANCE = 1e-5
# File metadata: the first hex digits of every key; none for files in the order of arrival.
_PREFIX = "prefix"
# Files of one prefix that are compacted: those in the order of arrival, and sorted ones.
_MAX_ARRIVED = 32
_MAX_SORTED = 4
# A sorted file that would be larger is split by one digit more.
_MAX_SORTED_BYTES = 16 * 2**20
# Files that are merged at once, so that compaction takes the same memory for a table of any size:
# up to five times as much.
_MAX_MERGED_BYTES = 32 * 2**20
# An object store answers many requests at once.
_THREADS = 8


@dataclass(frozen=True)
class VectorFile:
    """A file of vectors and the file of its keys."""

    rows: DataFile
    keys: DataFile

    @property
    def part(self) -> str:
        """What identifies the pair."""
        part: str = self.rows.metadata[FILE_PAIR]
        return part

    @property
    def prefix(self) -> str:
        """The first hex digits of every key."""
        prefix: str = self.rows.metadata.get(_PREFIX, "")
        return prefix

    @property
    def flags(self) -> frozenset[str]:
        """Those of FLAGS that all its images have."""
        return frozenset(flag for flag in FLAGS if self.rows.metadata.get(flag))

    def may_have(self, ordered_keys: Sequence[str]) -> bool:
        """Whether the prefix allows one of some sorted keys."""
        position = bisect_left(ordered_keys, self.prefix)
        return position < len(ordered_keys) and ordered_keys[position].startswith(self.prefix)


def vector_files(commit: Commit) -> list[VectorFile]:
    """The pairs of files, in commit order: vectors in a later one replace those in an earlier."""
    keys = {file.metadata[FILE_PAIR]: file for file in commit.files_with_role(KEYS)}
    return [
        VectorFile(file, keys[file.metadata[FILE_PAIR]])
        for file in commit.files_with_role()
        if file.metadata[FILE_PAIR] in keys
    ]


def count_bad(vectors: NDArray[np.float32]) -> int:
    """How many vectors are not finite or not of norm 1."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return int((~(np.abs(norms - 1) <= _UNIT_TOLERANCE)).sum())


def bad_in(frame: pl.DataFrame) -> int:
    """How many vectors of a file are not finite or not of norm 1."""
    vectors = np.ascontiguousarray(frame["vector"].to_numpy(), dtype=np.float32)
    parts = range(0, len(vectors), AUDIT_ROWS)
    return sum(count_bad(vectors[start : start + AUDIT_ROWS]) for start in parts)


def write_vectors(
    table: Table, frame: pl.DataFrame, prefix: str = "", *, flags: Iterable[str] = ()
) -> list[DataFile]:
    """Store vectors and their keys as two files, for a later commit to list.

    `flags` are those of FLAGS that all the images have.
    """
    with ThreadPoolExecutor(1, "keys") as pool:
        written = pool.submit(table.write_rows, frame.select(SHA256), role=KEYS)
        # Float vectors hardly compress, and compression would slow down reading.
        rows = table.write_rows(frame, compression="uncompressed")
        keys = written.result()
    metadata: dict[str, Any] = {FILE_PAIR: uuid.uuid4().hex}
    metadata |= {_PREFIX: prefix} if prefix else {}
    metadata |= dict.fromkeys(flags, True)
    bad = {BAD: bad_in(frame)} if "vector" in frame.columns else {}
    return [rows.with_metadata(**metadata, **bad), keys.with_metadata(**metadata)]


def frames_with(
    table: Table, files: Sequence[VectorFile], missing: set[str], *, skip_damaged: bool = False
) -> Iterator[pl.DataFrame]:
    """The rows of some images, file by file; images that were found leave the set.

    The newest file comes first, since a later vector replaces an earlier one.
    """
    ordered = sorted(missing)
    for file in reversed(files):
        if not missing or not file.may_have(ordered):
            continue
        try:
            shared = missing.intersection(table.read_file(file.keys)[SHA256])
            if not shared:
                continue
            rows = table.read_file(file.rows)
        except CorruptFileError:
            if skip_damaged:  # the other catalog's own runs repair it
                continue
            raise
        keys = pl.DataFrame({SHA256: sorted(shared)}, schema={SHA256: pl.String})
        yield keys.join(rows, on=SHA256, how="inner", maintain_order="left")
        missing -= shared


def _same(base: Commit) -> Mapping[str, Any]:
    return base.properties


def drop_damaged(
    table: Table, commit: Commit, next_properties: Callable[[Commit], Mapping[str, Any]] = _same
) -> int:
    """Commit a table without the damaged files of a commit; a later run computes their rows.

    Returns:
        The number of files that were dropped.
    """
    damaged = {file.metadata[FILE_PAIR] for file in commit.files if not table.is_intact(file)}
    return drop_files(table, damaged, next_properties)


def drop_files(
    table: Table, pairs: set[str], next_properties: Callable[[Commit], Mapping[str, Any]]
) -> int:
    """Commit a table without some pairs of files.

    Args:
        table: holds the files.
        pairs: FILE_PAIR of the files.
        next_properties: those of the new commit, by its base.

    Returns:
        The number of files that were dropped.
    """
    dropped = 0

    def change(base: Commit | None) -> PendingCommit | None:
        nonlocal dropped
        if base is None:
            return None
        kept = [file for file in base.files if file.metadata[FILE_PAIR] not in pairs]
        dropped = len(base.files) - len(kept)
        if not dropped:
            return None
        return PendingCommit(kept, inputs=base.inputs, properties=next_properties(base))

    table.commit(change)
    return dropped


def compaction_is_due(base: Commit | None, commit: Commit) -> bool:
    """Whether the writer of a commit is to compact: of many concurrent ones, one at a time."""
    before, after = (_arrived(each) if each is not None else 0 for each in (base, commit))
    return after // _MAX_ARRIVED > before // _MAX_ARRIVED


def _arrived(commit: Commit) -> int:
    return sum(not file.prefix and not file.flags for file in vector_files(commit))


def compact(table: Table, commit: Commit) -> None:
    """Sort the files of crowded prefixes; other writers may commit meanwhile.

    Files are read and written before the change that is committed, so that losing a race costs
    one request. A prefix whose files another writer has replaced is left to it.

    Raises:
        CorruptFileError: A file is damaged.
    """
    newest: Commit | None = commit
    while newest is not None:
        crowded = dict(_crowded(newest))
        if not crowded:
            return
        sorted_files = {
            prefix: _sort(table, files, prefix) for prefix, files in sorted(crowded.items())
        }
        newest = table.commit(partial(_replace, replaced=crowded, by=sorted_files))


def _crowded(commit: Commit) -> Iterator[tuple[str, list[VectorFile]]]:
    """Prefixes with many files, and the oldest of these, as many as are merged at once."""
    by_prefix: dict[str, list[VectorFile]] = defaultdict(list)
    for file in vector_files(commit):
        if not file.flags:
            by_prefix[file.prefix].append(file)
    for prefix, files in by_prefix.items():
        if len(files) < (_MAX_SORTED if prefix else _MAX_ARRIVED):
            continue
        chosen: list[VectorFile] = []
        for file in files:
            if chosen and sum(each.rows.bytes for each in chosen) > _MAX_MERGED_BYTES:
                break
            chosen.append(file)
        yield prefix, chosen


def _sort(table: Table, files: Sequence[VectorFile], prefix: str) -> list[DataFile]:
    """Store the rows of some files as sorted files."""
    with ThreadPoolExecutor(_THREADS, "compact") as pool:
        frames = list(pool.map(table.read_file, [file.rows for file in files]))
        rows = pl.concat(frames, how="diagonal_relaxed")
        rows = rows.unique(subset=SHA256, keep="last", maintain_order=True).sort(SHA256)
        groups = _by_prefix(rows, prefix)
        written = pool.map(lambda group: write_vectors(table, group[1], group[0]), groups)
        return [file for pair in written for file in pair]


def _by_prefix(rows: pl.DataFrame, prefix: str) -> list[tuple[str, pl.DataFrame]]:
    """Sorted rows of one prefix in one part, or in parts of one digit more."""
    if prefix and rows.estimated_size() <= _MAX_SORTED_BYTES:
        return [(prefix, rows)]
    labeled = rows.with_columns(pl.col(SHA256).str.slice(0, len(prefix) + 1).alias(_PREFIX))
    parts = labeled.partition_by(_PREFIX, maintain_order=True)
    return [(str(part[_PREFIX][0]), part.drop(_PREFIX)) for part in parts]


def _replace(
    base: Commit | None,
    *,
    replaced: Mapping[str, Sequence[VectorFile]],
    by: Mapping[str, Sequence[DataFile]],
) -> PendingCommit | None:
    """The base with files replaced at the place of the oldest, so that no older one overrides."""
    if base is None:
        return None
    present = {file.metadata[FILE_PAIR] for file in base.files}
    first: dict[str, Sequence[DataFile]] = {}
    dropped: set[str] = set()
    for prefix, files in replaced.items():
        parts = [file.part for file in files]
        if present.issuperset(parts):
            first[parts[0]] = by[prefix]
            dropped.update(parts)
    if not dropped:
        return None
    result: list[DataFile] = []
    for file in base.files:
        part = file.metadata[FILE_PAIR]
        result.extend(first.pop(part, ()))
        if part not in dropped:
            result.append(file)
    return PendingCommit(result, inputs=base.inputs, properties=base.properties)
