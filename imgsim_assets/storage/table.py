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
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import polars as pl
from polars.io.plugins import register_io_source

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.progress import Log
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.shards import Shard, shard_indices

FORMAT = 1
COMMITS = "_commits"
LATEST = "_latest.json"
_COMMIT_NAME = re.compile(r"\d{12}\.json")
DATA = "data"

# Small enough that reading a range of keys from a sorted file does not read all of it.
_ROW_GROUP = 4096

Json = Any
# The first and the last of a range of keys.
Range = tuple[str, str]
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
    commit_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def with_role(self, role: str = ROWS) -> list[DataFile]:
        """The commit's files of one role, in commit order."""
        return [file for file in self.files if file.role == role]

    def only(self, role: str) -> DataFile | None:
        """The one file of a role, or None."""
        found = self.with_role(role)
        return found[0] if found else None

    def replaced_in(self, file: DataFile) -> dict[int, list[int]]:
        """Number of shards to shards, whose rows no longer count in `file`.

        They are those that were completed behind it under another number of shards: the
        complete file replaces all rows of its shard, also those that are gone.
        """
        replaced: dict[int, list[int]] = {}
        for other in self.files[self.files.index(file) + 1 :]:
            is_elsewhere = other.layout != file.layout and other.role == ROWS
            if other.complete and is_elsewhere and other.layout and other.shard is not None:
                replaced.setdefault(other.layout, []).append(other.shard)
        return replaced

    @property
    def rows(self) -> int:
        """Rows over all row files (a key rewritten since the last compaction counts twice)."""
        return sum(file.rows or 0 for file in self.with_role())

    def of_shard(self, shard: Shard) -> list[DataFile]:
        """The files, of any role, that were written for exactly this shard."""
        return [
            file for file in self.files if (file.shard, file.layout) == (shard.index, shard.count)
        ]

    def concerning(self, shard: Shard) -> list[DataFile]:
        """The row files that may hold rows of a shard, of its own number of shards or another."""
        files = self.with_role()
        return [file for file in files if file.layout != shard.count or file.shard == shard.index]


@dataclass(frozen=True)
class PendingCommit:
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
        listed = (entry.name for entry in self._files.entries(f"{self.name}/{COMMITS}"))
        return sorted(int(name[:12]) for name in listed if _COMMIT_NAME.fullmatch(name))

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
        path = self._commit_path(version)
        data = self._files.read(path)
        try:
            commit = _decode(data)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFileError(
                f"{self._files.url}/{path} is no commit ({error}); delete it to go back to the "
                "version before it"
            ) from error
        if commit.version != version:
            raise CorruptFileError(
                f"{self._files.url}/{path} is a copy of commit {commit.version}; delete it"
            )
        return commit

    def _commit_path(self, version: int) -> str:
        return f"{self.name}/{COMMITS}/{version:012d}.json"

    # ---- writing --------------------------------------------------------------------

    def commit(self, change: Callable[[Commit | None], PendingCommit | None]) -> Commit | None:
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
                # The number is taken: by another writer, or by ourselves when the answer to
                # an earlier attempt was lost on the way.
                if not self._holds(commit):
                    time.sleep(random.uniform(0, min(1.0, 0.01 * 2 ** min(attempt, 7))))
                    continue
            self._publish(commit.version, body)
            return commit
        raise StoreError(f"table {self.name}: lost the race to commit 1000 times in a row")

    def _holds(self, commit: Commit) -> bool:
        """Whether the commit of that number is this very one."""
        with contextlib.suppress(FileNotFoundError):
            return self._read_commit(commit.version).commit_id == commit.commit_id
        return False

    def _publish(self, version: int, body: bytes) -> None:
        """Copy a commit to _latest.json; the commit holds whether or not that succeeds."""
        with contextlib.suppress(Exception):  # filesystems have errors of their own libraries
            self._files.write(f"{self.name}/{LATEST}", body)
            newest = self.versions()[-1]
            if newest != version:  # a faster writer's copy may just have been put back
                newer = self._files.read(self._commit_path(newest))
                self._files.write(f"{self.name}/{LATEST}", newer)

    def write_rows(
        self, rows: pl.DataFrame, *, role: str = ROWS, compression: Compression = "zstd"
    ) -> DataFile:
        """Store a frame as an immutable Parquet file, to be named by a later commit."""
        body = io.BytesIO()
        rows.write_parquet(body, compression=compression)
        stored = self.write_bytes(body.getvalue(), role=role, suffix=".parquet")
        return replace(stored, rows=rows.height)

    def write_pieces(
        self, pieces: Iterable[pl.DataFrame], *, row_group: int = _ROW_GROUP
    ) -> DataFile:
        """`write_rows` for one or more pieces, sorted by key, that are not in memory all at once.

        Reading a range of keys from the file later takes no more memory than the range.
        """
        rows = 0
        left = iter(pieces)
        first = next(left)

        def in_turn(*_: object) -> Iterator[pl.DataFrame]:
            nonlocal rows
            for piece in chain([first], left):
                rows += piece.height
                yield piece

        with tempfile.TemporaryDirectory(prefix="imgsim-") as scratch:
            whole = Path(scratch) / "whole.parquet"
            register_io_source(in_turn, schema=first.schema).sink_parquet(
                whole, row_group_size=row_group
            )
            return self.upload(whole, role=ROWS, rows=rows)

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
        try:
            data = self._files.read(f"{self.name}/{file.path}")
        except FileNotFoundError:
            raise self._corrupt(file, "is gone although a commit lists it") from None
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise self._corrupt(file, "does not match its committed checksum")
        return data

    @contextlib.contextmanager
    def _on_disk(self, file: DataFile) -> Iterator[Path]:
        """`read_bytes` for a file that is not to be in memory: where it, or a copy, lies here."""
        path = f"{self.name}/{file.path}"
        with contextlib.ExitStack() as copies:
            place = self._files.local_path(path)
            try:
                if place is None:
                    scratch = tempfile.TemporaryDirectory(prefix="imgsim-")
                    place = Path(copies.enter_context(scratch)) / Path(path).name
                    self._files.download(path, place)
                with open(place, "rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
            except FileNotFoundError:
                raise self._corrupt(file, "is gone although a commit lists it") from None
            if digest != file.sha256:
                raise self._corrupt(file, "does not match its committed checksum")
            yield place

    def _corrupt(self, file: DataFile, what: str) -> CorruptFileError:
        return CorruptFileError(
            f"{self._files.url}/{self.name}/{file.path} {what}; "
            "materialize the asset again to rebuild it"
        )

    def check_present(self, commit: Commit) -> None:
        """Raise CorruptFileError unless every row file is there with its committed size."""
        for file in commit.with_role():
            entry = self._files.stat(f"{self.name}/{file.path}")
            if entry is None or entry.size != file.bytes:
                raise self._corrupt(file, "is gone or cut short although a commit lists it")

    def read_file(self, file: DataFile, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """A Parquet file's rows, checked against its checksum."""
        body = io.BytesIO(self.read_bytes(file))
        return pl.read_parquet(body, columns=list(columns) if columns else None)

    def is_whole(self, commit: Commit, *, shard: Shard | None = None) -> bool:
        """Whether every file of a commit (of one shard) is there and matches its checksum."""
        try:
            for file in commit.files if shard is None else commit.of_shard(shard):
                self.read_bytes(file)
        except CorruptFileError:
            return False
        return True

    def read(
        self,
        commit: Commit,
        *,
        shard: Shard | None = None,
        columns: Sequence[str] | None = None,
        skip_damaged: Log | None = None,
    ) -> pl.DataFrame:
        """The rows of a commit (of one shard), a later row replacing an earlier of its key.

        An empty frame without columns means that the commit has no row file at all. A file
        that is damaged raises CorruptFileError, or, with `skip_damaged`, is left out after
        that has been told why.
        """
        if shard is not None or self.key is not None:
            columns = _with_column(columns, self.key or "id")
        frames = []
        for file in commit.with_role() if shard is None else commit.concerning(shard):
            try:
                rows = self.read_file(file, columns)
            except CorruptFileError as error:
                if skip_damaged is None:
                    raise
                skip_damaged(str(error))
                continue
            frames.append(self._counting(commit, file, shard, rows))
        if not frames:
            return pl.DataFrame()
        # Files of an earlier version of the code may have fewer columns.
        rows = pl.concat(frames, how="diagonal_relaxed")
        if self.key is not None and rows[self.key].n_unique() < rows.height:
            rows = rows.unique(subset=self.key, keep="last", maintain_order=True)
        return rows

    @contextlib.contextmanager
    def by_ranges(
        self, commit: Commit, *, shard: Shard, skip_damaged: Log
    ) -> Iterator[Callable[[Range], pl.DataFrame]]:
        """A function that reads those rows of a shard whose keys are in a range.

        It takes no more memory than the range and, for each file, a group of rows. Where rows
        have the same key, the last of them counts. Files are checked once, when this is entered,
        and one that is damaged is left out after `skip_damaged` has been told why.
        """
        key = self.key or "id"
        with contextlib.ExitStack() as on_disk:
            files: list[tuple[DataFile, Path]] = []
            for file in commit.concerning(shard):
                try:
                    files.append((file, on_disk.enter_context(self._on_disk(file))))
                except CorruptFileError as error:
                    skip_damaged(str(error))

            def read(between: Range) -> pl.DataFrame:
                frames = [
                    self._counting(commit, file, shard, _read_range(path, key, between))
                    for file, path in files
                ]
                return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()

            yield read

    def _counting(
        self, commit: Commit, file: DataFile, shard: Shard | None, rows: pl.DataFrame
    ) -> pl.DataFrame:
        """The rows of a file (of one shard), as far as they still count."""
        key = self.key or "id"
        for layout, shards in commit.replaced_in(file).items():
            rows = rows.filter(~shard_indices(rows[key], layout).is_in(shards))
        return rows if shard is None or file.layout == shard.count else shard.keep(rows, key)

    def local_files(self, commit: Commit) -> list[Path] | None:
        """The paths of the commit's row files on this machine, None for a remote store."""
        paths = [self._files.local_path(f"{self.name}/{file.path}") for file in commit.with_role()]
        return None if None in paths else [path for path in paths if path is not None]


def _read_range(path: Path, key: str, between: Range) -> pl.DataFrame:
    first, last = between
    in_range = pl.col(key).is_between(pl.lit(first), pl.lit(last))
    # The key alone is decoded to find the rows, and of the other columns these rows only.
    return pl.scan_parquet(path, glob=False, parallel="prefiltered").filter(in_range).collect()


def append_to_shard(
    base: Commit | None, shard: Shard, files: Sequence[DataFile]
) -> tuple[DataFile, ...]:
    """The base's files and, behind them, files with rows that arrived for one shard."""
    return (*(base.files if base else ()), *(file.in_shard(shard) for file in files))


def replace_shard(
    base: Commit | None, shard: Shard, files: Sequence[DataFile]
) -> tuple[DataFile, ...]:
    """The base's files with those of one shard replaced by its complete ones, at the end.

    A file of another number of shards is dropped once every shard of this number has been
    completed behind it.
    """
    own = base.of_shard(shard) if base else []
    kept = [file for file in base.files if file not in own] if base else []
    result = [*kept, *(replace(file.in_shard(shard), complete=True) for file in files)]
    return tuple(
        file
        for position, file in enumerate(result)
        if file.layout == shard.count or not _is_covered(result[position + 1 :], shard.count)
    )


def is_complete(base: Commit, shard: Shard) -> bool:
    """Whether a shard's rows are in one complete file, with nothing newer anywhere else."""
    own = [file for file in base.of_shard(shard) if file.role == ROWS]
    if len(own) != 1 or not own[0].complete:
        return False
    behind = base.files[base.files.index(own[0]) + 1 :]
    return all(file.layout == shard.count for file in behind)


def _is_covered(files: Sequence[DataFile], layout: int) -> bool:
    completed = {file.shard for file in files if file.complete and file.layout == layout}
    return len(completed) == layout


def _with_column(columns: Sequence[str] | None, column: str) -> list[str] | None:
    if columns is None or column in columns:
        return list(columns) if columns is not None else None
    return [*columns, column]


def _encode(commit: Commit) -> bytes:
    document = {
        "format": FORMAT,
        "table": commit.table,
        "version": commit.version,
        "commit_id": commit.commit_id,
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


def _decode(data: bytes) -> Commit:
    document = json.loads(data)
    if document["format"] > FORMAT:
        raise StoreError(
            f"table {document['table']} was written in format {document['format']}, this version "
            f"reads up to {FORMAT}; upgrade imgsim_assets"
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
        commit_id=document["commit_id"],
    )
