"""The files of a table: written once, and verified whenever they are read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

import polars as pl
from polars.io.plugins import register_io_source

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.scratch import scratch_folder
from imgsim_assets.storage.commit import ROWS, Commit, DataFile
from imgsim_assets.storage.files import Files

DATA = "data"
_MISSING = "is missing although a commit lists it"
# What to do about a damaged file.
REBUILD = "materialize the asset again to rebuild it, in a shell by 'imgsim run --all'"

# Small enough that reading a range of keys from a sorted file does not read all of it.
_ROW_GROUP_SIZE = 4096

# The default level takes twice the time, and files of ids and hashes get no smaller.
_ZSTD_LEVEL = 1

# A larger file is verified in parts.
_SMALL_FILE = 8 * 2**20

Compression = Literal["zstd", "uncompressed"]


class TableFiles:
    """The immutable files in the folder of one table.

    Args:
        files: The root that holds the table's folder.
        name: Folder of the table, such as "products/images".
    """

    def __init__(self, files: Files, name: str) -> None:
        self.name = name
        self._files = files

    def write_rows(
        self,
        rows: pl.DataFrame,
        *,
        role: str = ROWS,
        compression: Compression = "zstd",
        existing: Iterable[DataFile] = (),
    ) -> DataFile:
        """Store a frame as an immutable Parquet file, for a later commit to list.

        Of `existing` files the one that holds the same bytes in the same role is returned instead,
        if it is intact.
        """
        body = io.BytesIO()
        # Where a frame is in several chunks decides some bytes, and is not part of its rows.
        level = _ZSTD_LEVEL if compression == "zstd" else None
        rows.rechunk().write_parquet(body, compression=compression, compression_level=level)
        data = body.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        for file in existing:
            if (file.role, file.sha256) == (role, digest) and self.is_intact(file):
                return file
        stored = self.write_bytes(data, role=role, suffix=".parquet")
        return replace(stored, rows=rows.height)

    def write_sorted_chunks(
        self, chunks: Iterable[pl.DataFrame], *, row_group_size: int = _ROW_GROUP_SIZE
    ) -> DataFile:
        """`write_rows` for frames, sorted by key, that do not fit in memory together.

        Args:
            chunks: One frame or more, of the same schema.
            row_group_size: Rows per Parquet row group. Reading a range of keys decodes whole
                row groups.
        """
        row_count = 0
        remaining = iter(chunks)
        first = next(remaining)

        def read_chunks(*_: object) -> Iterator[pl.DataFrame]:
            nonlocal row_count
            for chunk in chain([first], remaining):
                row_count += chunk.height
                yield chunk

        with scratch_folder() as scratch:
            local = scratch / "rows.parquet"
            register_io_source(read_chunks, schema=first.schema).sink_parquet(
                local, row_group_size=row_group_size
            )
            return self.upload(local, role=ROWS, rows=row_count)

    def write_bytes(self, data: bytes, *, role: str, suffix: str) -> DataFile:
        """Store bytes as an immutable file, for a later commit to list."""
        path = f"{DATA}/{uuid.uuid4().hex}{suffix}"
        self._files.write(f"{self.name}/{path}", data)
        return DataFile(path, len(data), hashlib.sha256(data).hexdigest(), role=role)

    def upload(self, local: Path, *, role: str, rows: int | None = None) -> DataFile:
        """Store a copy of a local file as an immutable file, for a later commit to list."""
        path = f"{DATA}/{uuid.uuid4().hex}{local.suffix}"
        digest = _sha256_of_file(local)
        self._files.upload(f"{self.name}/{path}", local)
        return DataFile(path, local.stat().st_size, digest, rows=rows, role=role)

    def read_bytes(self, file: DataFile) -> bytes:
        """A file's bytes, verified.

        Raises:
            CorruptFileError: The file is missing or does not match its checksum.
        """
        try:
            data = self._files.read(f"{self.name}/{file.path}")
        except FileNotFoundError:
            raise self._corrupt(file, _MISSING) from None
        self._check_digest(file, hashlib.sha256(data).hexdigest())
        return data

    @contextlib.contextmanager
    def local_copy(self, file: DataFile, *, verify: bool = True) -> Iterator[Path]:
        """A verified file on this disk: the file itself, or a temporary copy of a remote one.

        Args:
            file: The file.
            verify: Whether its checksum is verified, or else only its size.

        Raises:
            CorruptFileError: The file is missing or does not match its checksum.
        """
        path = f"{self.name}/{file.path}"
        with contextlib.ExitStack() as stack:
            local = self._files.local_path(path)
            try:
                if local is None:
                    local = stack.enter_context(scratch_folder()) / Path(path).name
                    self._files.download(path, local)
                size = local.stat().st_size
                digest = _sha256_of_file(local) if verify else file.sha256
            except FileNotFoundError:
                raise self._corrupt(file, _MISSING) from None
            self._check_digest(file, digest if size == file.bytes else "")
            yield local

    def verify(self, file: DataFile) -> None:
        """Check a file's checksum; at most 8 MiB of it are in memory at once.

        Raises:
            CorruptFileError: The file is missing or does not match its checksum.
        """
        if file.bytes <= _SMALL_FILE:
            self.read_bytes(file)
            return
        with self.local_copy(file):
            pass

    def is_intact(self, file: DataFile) -> bool:
        """Whether a file exists and matches its checksum."""
        try:
            self.verify(file)
        except CorruptFileError:
            return False
        return True

    def damaged(self, file: DataFile) -> CorruptFileError:
        """The error about a file whose bytes have changed."""
        return self._corrupt(file, "does not match its committed checksum")

    def _check_digest(self, file: DataFile, digest: str) -> None:
        if digest != file.sha256:
            raise self.damaged(file)

    def _corrupt(self, file: DataFile, problem: str) -> CorruptFileError:
        return CorruptFileError(f"{self._files.url}/{self.name}/{file.path} {problem}; {REBUILD}")

    def check_files_exist(self, commit: Commit, *, of_all_roles: bool = False) -> None:
        """Check that every row file exists with its committed size, without reading it.

        Args:
            commit: A commit of this table.
            of_all_roles: Check also what is stored beside the rows.

        Raises:
            CorruptFileError: A file is missing or has another size.
        """
        files = commit.files if of_all_roles else commit.files_with_role()
        # Many files of an object store are one request.
        size_of = self._listed_sizes().get if of_all_roles else self._size_of
        for file in files:
            if size_of(file.path) != file.bytes:
                raise self._corrupt(file, "is missing or truncated although a commit lists it")

    def _listed_sizes(self) -> dict[str, int]:
        listed = self._files.entries(f"{self.name}/{DATA}")
        return {f"{DATA}/{entry.name}": entry.size for entry in listed}

    def _size_of(self, path: str) -> int | None:
        entry = self._files.stat(f"{self.name}/{path}")
        return entry.size if entry is not None else None

    def local_paths(self, commit: Commit) -> list[Path] | None:
        """The paths of the commit's row files on this machine, None for a remote store."""
        files = commit.files_with_role()
        paths = [self._files.local_path(f"{self.name}/{file.path}") for file in files]
        return None if None in paths else [path for path in paths if path is not None]


def _sha256_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
