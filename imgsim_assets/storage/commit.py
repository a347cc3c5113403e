"""Commits: which files make up a version of a table, and what a shard's files are replaced by."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from imgsim_assets.errors import FormatError
from imgsim_assets.storage.sealed_json import CHECKSUM, is_sealed, seal
from imgsim_assets.storage.shards import Shard

# The version of the JSON of commits and of the layout of the store.
FORMAT = 3

Json = Any
# The columns that identify a row; the first one decides its shard and its place in a sorted file.
Key = str | tuple[str, ...] | None

# The role of a file that holds the table's rows. Files of other roles hold data derived from them.
ROWS = "rows"


def new_commit_id() -> str:
    """Tells a commit from all others."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class DataFile:
    """One immutable file of a table.

    Args:
        path: Relative to the table's folder.
        bytes: Size of the file.
        sha256: Checksum of the file, hex.
        rows: Number of rows, None for a file that is not a frame.
        role: What the file holds.
        shard: Index of the shard the rows belong to, None in a table that is not sharded.
        shard_count: Number of shards that `shard` counts in, None like `shard`.
        is_snapshot: Whether the file holds every row of its shard as of its commit. A delta
            file holds only rows that arrived since.
        metadata: Small JSON values.
    """

    path: str
    bytes: int
    sha256: str
    rows: int | None = None
    role: str = ROWS
    shard: int | None = None
    shard_count: int | None = None
    is_snapshot: bool = False
    metadata: Mapping[str, Json] = field(default_factory=dict)

    def in_shard(self, shard: Shard) -> DataFile:
        """The same file, assigned to a shard."""
        return replace(self, shard=shard.index, shard_count=shard.count)

    def with_content(self, other: DataFile) -> DataFile:
        """This entry with the path, size, checksum and row count of another file."""
        return replace(
            self, path=other.path, bytes=other.bytes, sha256=other.sha256, rows=other.rows
        )

    def with_metadata(self, **metadata: Json) -> DataFile:
        """The same file with more metadata."""
        return replace(self, metadata={**self.metadata, **metadata})


@dataclass(frozen=True)
class Commit:
    """One version of a table.

    Args:
        table: Name of the table.
        version: Number of the version, from 1.
        files: The files of the version. A later file overrides an earlier one.
        committed_at: Time of the commit, ISO 8601, UTC.
        key: Column or columns by which a later row replaces an earlier one, None for none.
        inputs: Versions of the tables and sources that were read.
        properties: JSON values that describe the version.
        run_id: The Dagster run that committed.
        lost: Paths of files of the table that are known to be damaged. Only earlier versions need
            them, unless `files` lists them too.
        commit_id: Tells this commit from one of another writer with the same number.
    """

    table: str
    version: int
    files: tuple[DataFile, ...]
    committed_at: str
    key: Key = None
    inputs: Mapping[str, Json] = field(default_factory=dict)
    properties: Mapping[str, Json] = field(default_factory=dict)
    run_id: str | None = None
    lost: tuple[str, ...] = ()
    commit_id: str = field(default_factory=new_commit_id)

    @property
    def lists_lost_files(self) -> bool:
        """Whether this version itself needs files that are known to be damaged."""
        return not {file.path for file in self.files}.isdisjoint(self.lost)

    def files_with_role(self, role: str = ROWS) -> list[DataFile]:
        """The files of one role, in commit order."""
        return [file for file in self.files if file.role == role]

    def file_with_role(self, role: str) -> DataFile | None:
        """The first file of a role, or None."""
        return next(iter(self.files_with_role(role)), None)

    def files_of_shard(self, shard: Shard) -> list[DataFile]:
        """The files, of any role, that were written for exactly this shard."""
        return [
            file
            for file in self.files
            if (file.shard, file.shard_count) == (shard.index, shard.count)
        ]

    def row_files_for_shard(self, shard: Shard) -> list[DataFile]:
        """The row files that may hold rows of a shard, under its shard count or another."""
        return [
            file
            for file in self.files_with_role()
            if file.shard_count != shard.count or file.shard == shard.index
        ]

    def superseded_shards(self, file: DataFile) -> dict[int, list[int]]:
        """Shards, by shard count, whose rows in `file` later snapshots have replaced.

        A snapshot under another shard count replaces all rows of its shard in earlier files,
        including rows it no longer has.
        """
        superseded: dict[int, list[int]] = {}
        for other in self.files[self.files.index(file) + 1 :]:
            is_resharded = other.shard_count != file.shard_count and other.role == ROWS
            if other.is_snapshot and is_resharded and other.shard_count and other.shard is not None:
                superseded.setdefault(other.shard_count, []).append(other.shard)
        return superseded

    @property
    def rows(self) -> int:
        """Rows over all row files. A key rewritten since the last compaction counts twice."""
        return sum(file.rows or 0 for file in self.files_with_role())

    def to_json(self) -> bytes:
        """The commit as its file holds it, with its checksum."""
        return seal(
            {
                **vars(self),
                "format": FORMAT,
                "inputs": dict(self.inputs),
                "properties": dict(self.properties),
                "files": [
                    {name: value for name, value in vars(file).items() if _is_set(value)}
                    for file in self.files
                ],
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Commit:
        """Parse a commit file and verify its checksum.

        Raises:
            FormatError: Another version of imgsim_assets wrote the commit.
            ValueError, KeyError, TypeError: The bytes are not a commit, or were changed.
        """
        document = json.loads(data)
        is_intact = is_sealed(data)
        # A changed digit in a commit of this format is damage and not another format.
        if is_intact or CHECKSUM not in document:
            _require_format(document)
        if not is_intact:
            raise ValueError("its checksum does not match")
        values = {name: document[name] for name in cls.__dataclass_fields__ if name != "files"}
        values["lost"] = tuple(values["lost"])
        values["key"] = tuple(values["key"]) if isinstance(values["key"], list) else values["key"]
        return cls(**values, files=tuple(DataFile(**file) for file in document["files"]))


def key_columns(key: Key) -> list[str]:
    """The columns of a key; none without a key."""
    return [key] if isinstance(key, str) else list(key or ())


def _require_format(document: Mapping[str, Json]) -> None:
    written = document["format"]
    if written > FORMAT:
        raise FormatError(
            f"table {document['table']} was written in format {written}, this version "
            f"reads format {FORMAT}; upgrade imgsim_assets"
        )
    if written < FORMAT:
        raise FormatError(
            f"table {document['table']} was written by an earlier version of imgsim_assets "
            f"(format {written}, this version reads format {FORMAT}); create a new store in "
            "another folder (IMGSIM_STORE)"
        )


def _is_set(value: Json) -> bool:
    return value is not None and value is not False and value != {}


@dataclass(frozen=True)
class PendingCommit:
    """The files and properties that a writer wants to commit as the next version."""

    files: Sequence[DataFile]
    inputs: Mapping[str, Json] = field(default_factory=dict)
    properties: Mapping[str, Json] = field(default_factory=dict)
    lost: Sequence[str] = ()

    def is_repeated(self, newest: Commit | None, read: Commit | None) -> bool:
        """Whether another run has committed the same content after the commit that was read."""
        if newest is None or newest == read:
            return False
        return newest.properties == self.properties and _content(newest) == _content(self)


def _content(commit: Commit | PendingCommit) -> list[tuple[str, str]]:
    return sorted((file.role, file.sha256) for file in commit.files)


def append_to_shard(
    base: Commit | None, shard: Shard, files: Sequence[DataFile]
) -> tuple[DataFile, ...]:
    """The base's files, followed by delta files of one shard."""
    return (*(base.files if base else ()), *(file.in_shard(shard) for file in files))


def replace_shard(
    base: Commit | None, shard: Shard, files: Sequence[DataFile]
) -> tuple[DataFile, ...]:
    """The base's files with those of one shard replaced by snapshots, which come last.

    A file of another shard count is dropped once snapshots of every shard of this count
    follow it.
    """
    replaced = base.files_of_shard(shard) if base else []
    kept = [file for file in base.files if file not in replaced] if base else []
    result = [*kept, *(replace(file.in_shard(shard), is_snapshot=True) for file in files)]
    return tuple(
        file
        for position, file in enumerate(result)
        if file.shard_count == shard.count
        or not _has_every_snapshot(result[position + 1 :], shard.count)
    )


def is_compacted(base: Commit, shard: Shard) -> bool:
    """Whether all rows of a shard are in one snapshot that no other file follows."""
    row_files = [file for file in base.files_of_shard(shard) if file.role == ROWS]
    if len(row_files) != 1 or not row_files[0].is_snapshot:
        return False
    later = base.files[base.files.index(row_files[0]) + 1 :]
    return all(file.shard_count == shard.count for file in later)


def _has_every_snapshot(files: Sequence[DataFile], shard_count: int) -> bool:
    snapshots = {
        file.shard for file in files if file.is_snapshot and file.shard_count == shard_count
    }
    return len(snapshots) == shard_count
