"""Versioned tables: immutable files, and numbered commits that list them.

A commit is one JSON file written put-if-absent under the next number. Of two racing writers
exactly one gets the number, and the other reads the new commit and applies its change again.
Readers pin a commit. No file that a commit lists is ever changed.

    <table>/_commits/000000000042.json   files, row counts, checksums, inputs
    <table>/data/<uuid>.parquet          never rewritten
    <table>/_latest.json                 a copy of the newest commit for readers outside Python
"""

from __future__ import annotations

import contextlib
import io
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import polars as pl

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.commit import (
    ROWS,
    Commit,
    DataFile,
    Json,
    Key,
    PendingCommit,
    key_columns,
)
from imgsim_assets.storage.commit_log import CommitLog, CommitStamp
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.shards import Shard, shard_indices
from imgsim_assets.storage.table_files import TableFiles
from imgsim_assets.storage.waiting_files import WaitingFiles

_MAX_ATTEMPTS = 1000
# How often a writer sees the same oldest entry before it takes its writer for dead.
_PATIENCE = 30
# How often the writer of the oldest entry tries again before it looks for more entries.
_MAX_LEADING = 5
_MAX_PAUSE_S = 1.0
# How long a writer that lost a race expects to lose the next one.
_CONTENDED_S = 30.0
# The first and the last key, both included.
KeyRange = tuple[str, str]
Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


class Table(TableFiles):
    """One versioned table of a store.

    Args:
        files: The root that holds the table's folder.
        name: Folder of the table, such as "products/images".
        key: Columns by which a later row replaces an earlier one. Rows are sorted and sharded by
            the first, a string. Any others are numbers, 0 in a file that lacks them. None means
            that rows never replace each other.
        run_id: The Dagster run that every commit records.
    """

    def __init__(
        self, files: Files, name: str, *, key: Key = None, run_id: str | None = None
    ) -> None:
        super().__init__(files, name)
        self.key = key
        self._keys = key_columns(key)
        # A table without a key may still be sharded, by the id of its items.
        self._sort_key = self._keys[0] if self._keys else "id"
        self._log = CommitLog(files, name)
        self._run_id = run_id
        # Of `append`: until when other writers are expected, and how long an attempt takes.
        self._contended_until = -math.inf
        self._attempt_s = 0.0

    # ---- versions -------------------------------------------------------------------

    def versions(self) -> list[int]:
        """The numbers of the commits that garbage collection has not deleted, ascending."""
        return self._log.versions()

    def newest_stamp(self) -> CommitStamp | None:
        """What changes with the newest commit; see `CommitLog.newest_stamp`."""
        return self._log.newest_stamp()

    def latest(self) -> Commit | None:
        """The newest commit, or None for a table without commits; see `CommitLog.latest`."""
        return self._log.latest()

    def at(self, version: int) -> Commit:
        """One commit by number.

        Raises:
            StoreError: There is no such commit (any more).
        """
        try:
            return self._log.read(version)
        except FileNotFoundError:
            raise StoreError(
                f"table {self.name} has no version {version}; it has {self.versions() or 'none'}"
            ) from None

    # ---- writing --------------------------------------------------------------------

    def commit(self, change: Callable[[Commit | None], PendingCommit | None]) -> Commit | None:
        """Commit what `change` makes of the newest commit.

        Args:
            change: Takes the newest commit, None for a new table, and returns the next one, or
                None to commit nothing. It is called again, with the newer commit, whenever
                another writer committed first.

        Returns:
            The newest commit afterwards, None when there is none.

        Raises:
            StoreError: Other writers committed first 1000 times in a row.
        """
        base = self.latest()
        for attempt in range(_MAX_ATTEMPTS):
            pending = change(base)
            if pending is None:
                return base
            commit, taken = self._try_commit(base, pending)
            if commit is not None:
                self._log.copy(commit)
                return commit
            time.sleep(random.uniform(0, min(1.0, 0.01 * 2 ** min(attempt, 7))))
            base = self._log.newest_after(taken) if taken is not None else self.latest()
        raise self._overtaken()

    def append(
        self,
        added: Sequence[DataFile],
        properties: Callable[[Commit | None], Mapping[str, Json]],
    ) -> Commit | None:
        """Commit the files of the newest commit and more files.

        Of several writers that lose a race, one commits the files of all.

        Args:
            added: The files to add.
            properties: Takes the newest commit and returns the properties of the next one; they
                must suit the files of any writer.

        Returns:
            The commit, None if another writer committed the files.

        Raises:
            StoreError: Other writers committed first 1000 times in a row.
        """
        if time.monotonic() >= self._contended_until:
            base = self.latest()
            started = time.monotonic()
            commit, _ = self._try_commit(base, _appended(base, added, properties(base)))
            self._attempt_s = time.monotonic() - started
            if commit is not None:
                self._log.copy(commit)
                return commit
        # For a while, this writer does not race again, but joins the others at once.
        self._contended_until = time.monotonic() + _CONTENDED_S
        attempt_s = self._attempt_s
        waiting = WaitingFiles(self._files, self.name)
        own = waiting.announce(added)
        is_waiting, first, waits = True, own, 0
        try:
            for _ in range(_MAX_ATTEMPTS):
                queue = waiting.queue(own)
                waits = waits + 1 if queue[:1] == [first] else 0
                first = queue[0] if queue else own
                if not queue:
                    is_waiting = False
                    return None
                if first != own and waits < _PATIENCE:
                    time.sleep(min(random.uniform(0.1, 0.3) * attempt_s, _MAX_PAUSE_S))
                    continue
                with ThreadPoolExecutor(1, "latest") as pool:
                    newest = pool.submit(self.latest)
                    files = [*waiting.read([name for name in queue if name != own]), *added]
                    base = newest.result()
                if base is not None and _lists(base, added):
                    return None
                commit, taken = self._try_commit(base, _appended(base, files, properties(base)))
                for _ in range(_MAX_LEADING):
                    if commit is not None or taken is None:
                        break
                    base = self._log.newest_after(taken)
                    commit, taken = self._try_commit(base, _appended(base, files, properties(base)))
                if commit is not None:
                    # First the others learn that they are done.
                    waiting.remove(queue)
                    is_waiting = False
                    self._log.copy(commit)
                    return commit
        finally:
            if is_waiting:
                waiting.remove([own])
        raise self._overtaken()

    def _try_commit(
        self, base: Commit | None, pending: PendingCommit
    ) -> tuple[Commit | None, Commit | None]:
        """The commit after the base, or else the commit of another writer, if it can be read."""
        commit = Commit(
            table=self.name,
            version=base.version + 1 if base else 1,
            files=tuple(pending.files),
            committed_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            key=self.key,
            inputs=dict(pending.inputs),
            properties=dict(pending.properties),
            run_id=self._run_id,
            lost=tuple(pending.lost),
        )
        try:
            taken = self._log.create(commit)
        except FileExistsError:
            return None, None
        return (commit, None) if taken is None else (None, taken)

    def _overtaken(self) -> StoreError:
        return StoreError(
            f"table {self.name}: other writers committed first {_MAX_ATTEMPTS} times in a row"
        )

    # ---- reading --------------------------------------------------------------------

    def read_file(self, file: DataFile, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """A Parquet file's rows, verified as by `read_bytes`.

        A file of an earlier version of the code may lack some of the columns.
        """
        body = io.BytesIO(self.read_bytes(file))
        rows = pl.scan_parquet(body)
        if file.role == ROWS:
            rows = with_key(rows, self.key)
        if columns:
            present = rows.collect_schema()
            rows = rows.select(column for column in columns if column in present)
        return rows.collect()

    def verify_checksums(self, commit: Commit, *, shard: Shard | None = None) -> bool:
        """Whether every file of a commit (of one shard) exists and matches its checksum."""
        files = commit.files if shard is None else commit.files_of_shard(shard)
        return all(self.is_intact(file) for file in files)

    def read(
        self,
        commit: Commit,
        *,
        shard: Shard | None = None,
        columns: Sequence[str] | None = None,
        on_corrupt: Callable[[str], None] | None = None,
    ) -> pl.DataFrame:
        """The rows of a commit, each key once, as its last file has it.

        Args:
            commit: A commit of this table.
            shard: Read the rows of one shard only.
            columns: Columns to read, and the key column with them. None reads all.
            on_corrupt: Takes the error message of a corrupt file, which is then skipped.

        Returns:
            The rows. A commit without row files gives an empty frame without columns.

        Raises:
            CorruptFileError: A file is corrupt and `on_corrupt` is None.
        """
        frames = list(self.read_parts(commit, shard=shard, columns=columns, on_corrupt=on_corrupt))
        if not frames:
            return pl.DataFrame()
        # Files of an earlier version of the code may have fewer columns.
        rows = pl.concat(frames, how="diagonal_relaxed")
        if self._keys and rows[self._sort_key].n_unique() < rows.height:
            rows = rows.unique(subset=self._keys, keep="last", maintain_order=True)
        return rows

    def read_parts(
        self,
        commit: Commit,
        *,
        shard: Shard | None = None,
        columns: Sequence[str] | None = None,
        on_corrupt: Callable[[str], None] | None = None,
    ) -> Iterator[pl.DataFrame]:
        """The rows of a commit, a file at a time; of those with one key, the last one counts.

        The arguments and errors are those of `read`.
        """
        if columns is not None and (shard is not None or self._keys):
            columns = list(dict.fromkeys([*columns, *(self._keys or [self._sort_key])]))
        files = commit.files_with_role() if shard is None else commit.row_files_for_shard(shard)
        for file in files:
            try:
                rows = self.read_file(file, columns)
            except CorruptFileError as error:
                if on_corrupt is None:
                    raise
                on_corrupt(str(error))
                continue
            yield self._visible_rows(commit, file, shard, rows)

    @contextlib.contextmanager
    def open_range_reader(
        self, commit: Commit, *, shard: Shard, on_corrupt: Callable[[str], None]
    ) -> Iterator[Callable[[KeyRange], pl.DataFrame]]:
        """Open a shard for reading its rows by ranges of keys.

        The memory needed is that of the range and of one row group per file. Of rows with the
        same key the last one counts. Files are verified once, on entry.

        Args:
            commit: A commit of this table.
            shard: The shard to read.
            on_corrupt: Takes the error message of a corrupt file, which is then skipped.

        Yields:
            A function from a range of keys to the rows in it.
        """
        with contextlib.ExitStack() as stack:
            files: list[tuple[DataFile, Path]] = []
            for file in commit.row_files_for_shard(shard):
                try:
                    files.append((file, stack.enter_context(self.local_copy(file))))
                except CorruptFileError as error:
                    on_corrupt(str(error))

            def read(keys: KeyRange) -> pl.DataFrame:
                frames = [
                    self._visible_rows(commit, file, shard, self._read_range(path, keys))
                    for file, path in files
                ]
                return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()

            yield read

    def _read_range(self, path: Path, keys: KeyRange) -> pl.DataFrame:
        first, last = keys
        in_range = pl.col(self._sort_key).is_between(pl.lit(first), pl.lit(last))
        # The key column alone is decoded to find the rows, and of the others only these rows.
        rows = pl.scan_parquet(path, glob=False, parallel="prefiltered").filter(in_range).collect()
        return with_key(rows, self.key)

    def _visible_rows(
        self, commit: Commit, file: DataFile, shard: Shard | None, rows: pl.DataFrame
    ) -> pl.DataFrame:
        """The rows of a file (of one shard) that no later snapshot has replaced."""
        key = self._sort_key
        for shard_count, shards in commit.superseded_shards(file).items():
            rows = rows.filter(~shard_indices(rows[key], shard_count).is_in(shards))
        if shard is None or file.shard_count == shard.count:
            return rows
        return shard.filter(rows, key)


def _appended(
    base: Commit | None, added: Sequence[DataFile], properties: Mapping[str, Json]
) -> PendingCommit:
    """The files of a base, and those of `added` that it does not list."""
    files = base.files if base is not None else ()
    listed = {file.path for file in files}
    more = [file for file in added if file.path not in listed]
    inputs = base.inputs if base is not None else {}
    return PendingCommit([*files, *more], inputs, properties)


def _lists(commit: Commit, files: Sequence[DataFile]) -> bool:
    return {file.path for file in commit.files}.issuperset(file.path for file in files)


def with_key(rows: Frame, key: Key) -> Frame:
    """Rows with every column of a key; the columns after the first may be absent, and are 0."""
    keys = key_columns(key)
    if len(keys) < 2 or not set(keys[1:]).difference(names := rows.collect_schema().names()):
        return rows
    absent = [pl.lit(0, pl.Int32).alias(column) for column in keys if column not in names]
    return rows.with_columns(absent).select(*keys, pl.exclude(keys))
