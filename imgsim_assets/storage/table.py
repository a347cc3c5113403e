"""Versioned tables: immutable files, and numbered commits that say which of them count.

A commit is one JSON file written put-if-absent under the next number, so of two racing
writers exactly one gets the number and the other re-reads and re-applies its change.
Readers pin a commit; no file a commit lists is ever changed.

    <table>/_commits/000000000042.json   the truth: files, rows, checksums, inputs
    <table>/data/<uuid>.parquet          never rewritten
    <table>/_latest.json                 a copy of the newest commit for readers outside Python
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.shards import Shard, shard_indices

FORMAT = 1
COMMITS = "_commits"
LATEST = "_latest.json"
DATA = "data"

Json = Any
Compression = Literal["zstd", "uncompressed"]

# The role of a file that holds the table's rows; others hold what belongs beside them.
ROWS = "rows"


@dataclass(frozen=True)
class DataFile:
    """One immutable file of a table.

    `shard` and `layout` are the shard index and the number of shards it was written under,
    both None in a table that is not sharded. A `complete` file holds every row of its shard
    as of its commit; others hold rows that arrived since. `note` holds small facts.
    """

    path: str
    bytes: int
    sha256: str
    rows: int | None = None
    role: str = ROWS
    shard: int | None = None
    layout: int | None = None
    complete: bool = False
    note: Mapping[str, Json] = field(default_factory=dict)

    def in_shard(self, shard: Shard) -> DataFile:
        """The same file, filed under a shard."""
        return replace(self, shard=shard.index, layout=shard.count)

    def with_content(self, other: DataFile) -> DataFile:
        """The same place in the table, with another file's content."""
        return replace(
            self, path=other.path, bytes=other.bytes, sha256=other.sha256, rows=other.rows
        )

    def noted(self, **note: Json) -> DataFile:
        """The same file with more facts."""
        return replace(self, note={**self.note, **note})


@dataclass(frozen=True)
class Commit:
    """One version of a table. `version` counts from 1; `inputs` are the versions read."""

    table: str
    version: int
    files: tuple[DataFile, ...]
    committed_at: str
    key: str | None = None
    inputs: Mapping[str, Json] = field(default_factory=dict)
    properties: Mapping[str, Json] = field(default_factory=dict)
    run_id: str | None = None

    def with_role(self, role: str = ROWS) -> list[DataFile]:
        """The commit's files of one role, in commit order."""
        return [file for file in self.files if file.role == role]

    def only(self, role: str) -> DataFile | None:
        """The one file of a role, or None."""
        found = self.with_role(role)
        return found[0] if found else None

    @property
    def layout(self) -> int | None:
        """The number of shards of the newest file, None when no file is sharded."""
        return next((file.layout for file in reversed(self.files) if file.layout), None)

    def superseded(self, file: DataFile) -> set[int]:
        """The shards of the current layout whose rows no longer count in `file`.

        Only a file of an older layout has any: the shards that were completed since.
        """
        if file.layout is None or file.layout == self.layout:
            return set()
        return {
            other.shard
            for other in self.files
            if other.complete and other.layout == self.layout and other.shard is not None
        }

    @property
    def rows(self) -> int:
        """Rows over all row files (a key rewritten since the last compaction counts twice)."""
        return sum(file.rows or 0 for file in self.with_role())

    def of_shard(self, shard: Shard) -> list[DataFile]:
        """The files, of any role, that were written for exactly this shard."""
        return [
            file for file in self.files if (file.shard, file.layout) == (shard.index, shard.count)
        ]


@dataclass(frozen=True)
class Draft:
    """What a change wants committed: the complete list of files, and what goes with it."""

    files: Sequence[DataFile]
    inputs: Mapping[str, Json] = field(default_factory=dict)
    properties: Mapping[str, Json] = field(default_factory=dict)


class Table:
    """One versioned table of a store.

    `key` names the column by which a later row replaces an earlier one; None means that
    rows never replace each other.
    """

    def __init__(
        self, files: Files, name: str, *, key: str | None = None, run_id: str | None = None
    ) -> None:
        self.name = name
        self.key = key
        self._files = files
        self._run_id = run_id

    # ---- versions -------------------------------------------------------------------

    def versions(self) -> list[int]:
        """The numbers of the commits that are kept, ascending."""
        listed = self._files.entries(f"{self.name}/{COMMITS}")
        return [int(entry.name.removesuffix(".json")) for entry in listed]

    def latest(self) -> Commit | None:
        """The newest commit, or None while nothing was ever committed."""
        while versions := self.versions():
            # Collection may drop a commit between the listing and the read, never the newest.
            with contextlib.suppress(FileNotFoundError):
                return self._read_commit(versions[-1])
        return None

    def at(self, version: int) -> Commit:
        """One commit by number; StoreError when it is not there (any more)."""
        try:
            return self._read_commit(version)
        except FileNotFoundError:
            kept = self.versions()
            raise StoreError(
                f"table {self.name} has no version {version}; it keeps {kept or 'none'}"
            ) from None

    def _read_commit(self, version: int) -> Commit:
        return _decode(self._files.read(self._commit_path(version)), self.name)

    def _commit_path(self, version: int) -> str:
        return f"{self.name}/{COMMITS}/{version:012d}.json"

    # ---- writing --------------------------------------------------------------------

    def commit(self, change: Callable[[Commit | None], Draft | None]) -> Commit | None:
        """Apply `change` to the newest commit and commit what it returns.

        `change` is called again, on the newer commit, whenever another writer was faster;
        it returns None to commit nothing. Returns the commit that holds afterwards.
        """
        for attempt in range(1000):
            base = self.latest()
            draft = change(base)
            if draft is None:
                return base
            commit = Commit(
                table=self.name,
                version=base.version + 1 if base else 1,
                files=tuple(draft.files),
                committed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                key=self.key,
                inputs=dict(draft.inputs),
                properties=dict(draft.properties),
                run_id=self._run_id,
            )
            body = _encode(commit)
            try:
                self._files.create(self._commit_path(commit.version), body)
            except FileExistsError:
                time.sleep(random.uniform(0, min(1.0, 0.01 * 2 ** min(attempt, 7))))
                continue
            self._files.write(f"{self.name}/{LATEST}", body)
            return commit
        raise StoreError(f"table {self.name}: lost the race to commit 1000 times in a row")

    def write_rows(
        self, rows: pl.DataFrame, *, role: str = ROWS, compression: Compression = "zstd"
    ) -> DataFile:
        """Store a frame as an immutable Parquet file, to be named by a later commit."""
        body = io.BytesIO()
        rows.write_parquet(body, compression=compression)
        stored = self.write_bytes(body.getvalue(), role=role, suffix=".parquet")
        return replace(stored, rows=rows.height)

    def write_bytes(self, data: bytes, *, role: str, suffix: str) -> DataFile:
        """Store bytes as an immutable file, to be named by a later commit."""
        path = f"{DATA}/{uuid.uuid4().hex}{suffix}"
        self._files.write(f"{self.name}/{path}", data)
        return DataFile(path, len(data), hashlib.sha256(data).hexdigest(), role=role)

    def upload(self, local: Path, *, role: str, rows: int | None = None) -> DataFile:
        """Store a copy of a local file as an immutable file, to be named by a later commit."""
        path = f"{DATA}/{uuid.uuid4().hex}{local.suffix}"
        with open(local, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._files.upload(f"{self.name}/{path}", local)
        return DataFile(path, local.stat().st_size, digest, rows=rows, role=role)

    # ---- reading --------------------------------------------------------------------

    def read_bytes(self, file: DataFile) -> bytes:
        """A file's bytes, checked; CorruptFileError names the file when they differ."""
        path = f"{self.name}/{file.path}"
        try:
            data = self._files.read(path)
        except FileNotFoundError:
            raise CorruptFileError(
                f"{self._files.url}/{path} is gone although a commit lists it; "
                "materialize the asset again to rebuild it"
            ) from None
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise CorruptFileError(
                f"{self._files.url}/{path} does not match its committed checksum; "
                "materialize the asset again to rebuild it"
            )
        return data

    def is_present(self, file: DataFile) -> bool:
        """Whether the file is there with its committed size (its content is not read)."""
        entry = self._files.stat(f"{self.name}/{file.path}")
        return entry is not None and entry.size == file.bytes

    def read_file(self, file: DataFile, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """A Parquet file's rows, checked against its checksum."""
        return pl.read_parquet(
            io.BytesIO(self.read_bytes(file)), columns=list(columns) if columns else None
        )

    def read(
        self, commit: Commit, *, shard: Shard | None = None, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """The rows of a commit (of one shard), a later row replacing an earlier of its key.

        An empty frame without columns means that the commit has no row file at all.
        """
        if shard is not None or self.key is not None:
            columns = _with_column(columns, self.key or "id")
        frames = []
        for file in commit.with_role():
            rows = self._rows_of(commit, file, shard, columns)
            if rows is not None:
                frames.append(rows)
        if not frames:
            return pl.DataFrame()
        rows = pl.concat(frames)
        if self.key is not None and len(frames) > 1:
            rows = rows.unique(subset=self.key, keep="last", maintain_order=True)
        return rows

    def _rows_of(
        self, commit: Commit, file: DataFile, shard: Shard | None, columns: Sequence[str] | None
    ) -> pl.DataFrame | None:
        """One file's rows as far as they still count, or None when it is beside the point."""
        if shard is not None and file.layout == shard.count:
            return self.read_file(file, columns) if file.shard == shard.index else None
        rows = self.read_file(file, columns)
        key = self.key or "id"
        superseded = commit.superseded(file)
        if superseded and commit.layout:
            shards = shard_indices(rows[key], commit.layout)
            rows = rows.filter(~shards.is_in(sorted(superseded)))
        return shard.keep(rows, key) if shard is not None else rows

    def local_files(self, commit: Commit) -> list[Path] | None:
        """The paths of the commit's row files on this machine, None for a remote store."""
        paths = [self._files.local_path(f"{self.name}/{file.path}") for file in commit.with_role()]
        return None if None in paths else [path for path in paths if path is not None]


def append_to_shard(
    base: Commit | None, shard: Shard, files: Sequence[DataFile]
) -> tuple[DataFile, ...]:
    """The base's files and, after them, files with rows that arrived for one shard."""
    return (*(base.files if base else ()), *(file.in_shard(shard) for file in files))


def replace_shard(
    base: Commit | None, shard: Shard, files: Sequence[DataFile]
) -> tuple[DataFile, ...]:
    """The base's files with those of one shard replaced by its complete ones.

    Files of an older number of shards are dropped once every shard of the new number is
    complete.
    """
    own = base.of_shard(shard) if base else []
    kept = [file for file in base.files if file not in own] if base else []
    filed = [replace(file.in_shard(shard), complete=True) for file in files]
    completed = {file.shard for file in (*kept, *filed) if _is_complete(file, shard.count)}
    if len(completed) == shard.count:
        kept = [file for file in kept if file.layout == shard.count]
    return (*kept, *filed)


def _is_complete(file: DataFile, layout: int) -> bool:
    return file.complete and file.layout == layout


def _with_column(columns: Sequence[str] | None, column: str) -> list[str] | None:
    if columns is None or column in columns:
        return list(columns) if columns is not None else None
    return [*columns, column]


def _encode(commit: Commit) -> bytes:
    document = {
        "format": FORMAT,
        "table": commit.table,
        "version": commit.version,
        "committed_at": commit.committed_at,
        "run_id": commit.run_id,
        "key": commit.key,
        "inputs": dict(commit.inputs),
        "properties": dict(commit.properties),
        "files": [_encode_file(file) for file in commit.files],
    }
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _encode_file(file: DataFile) -> dict[str, Json]:
    fields = {
        "path": file.path,
        "bytes": file.bytes,
        "sha256": file.sha256,
        "rows": file.rows,
        "role": file.role,
        "shard": file.shard,
        "layout": file.layout,
        "complete": file.complete or None,
        "note": dict(file.note),
    }
    return {name: value for name, value in fields.items() if value not in (None, {})}


def _decode(data: bytes, table: str) -> Commit:
    document = json.loads(data)
    if document["format"] > FORMAT:
        raise StoreError(
            f"table {table} was written in format {document['format']}, this version reads up to "
            f"{FORMAT}; upgrade imgsim_assets"
        )
    return Commit(
        table=document["table"],
        version=document["version"],
        files=tuple(DataFile(**file) for file in document["files"]),
        committed_at=document["committed_at"],
        key=document["key"],
        inputs=document["inputs"],
        properties=document["properties"],
        run_id=document["run_id"],
    )
