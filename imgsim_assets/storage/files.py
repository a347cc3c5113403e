"""What the store asks of a filesystem: whole files under one root, never changed in place.

`local_files` implements it for disks, `remote_files` for the filesystems of fsspec. Both give the
same guarantees: a file appears whole or not at all, `create` succeeds for exactly one of several
racing writers, and nothing that a reader may have open is changed.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

# IOV_MAX of every supported system: the most buffers that one writev call takes.
_MAX_BUFFERS = 1024


@dataclass(frozen=True)
class Entry:
    """One name in a folder: `size` in bytes, `modified` in epoch seconds, both 0 for folders."""

    name: str
    size: int
    modified: float
    is_folder: bool


class StagedFile:
    """A file to append to, which nobody else can read before `finish`.

    Args:
        scratch: Path of the temporary file. `close` removes it, as does the garbage collection
            of this object.
        publish: Moves the temporary file to its final path.
        retryable: Whether `finish` may be called again after it failed.
    """

    def __init__(self, scratch: Path, publish: Callable[[Path], None], *, retryable: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.size = 0
        self.retryable = retryable
        self._scratch = scratch
        self._publish = publish
        self._descriptor = os.open(scratch, flags, 0o666)
        self._release = weakref.finalize(self, _release, self._descriptor, scratch, os.getpid())

    def lock(self) -> Self:
        """Mark the temporary file as in use while this process lives."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return self

    def append(self, pieces: Sequence[bytes]) -> None:
        """Add bytes at the end; all of them, or an OSError and none."""
        try:
            for start in range(0, len(pieces), _MAX_BUFFERS):
                _write_all(self._descriptor, pieces[start : start + _MAX_BUFFERS])
        except BaseException:
            os.ftruncate(self._descriptor, self.size)
            os.lseek(self._descriptor, self.size, os.SEEK_SET)
            raise
        self.size += sum(map(len, pieces))

    def read(self, start: int, length: int) -> bytes:
        """Bytes that were appended, readable until `close`."""
        return os.pread(self._descriptor, length, start)

    def finish(self) -> None:
        """Put the file at its path, whole and durable."""
        os.fsync(self._descriptor)
        self._publish(self._scratch)

    def close(self) -> None:
        """Close the file; without `finish` it is dropped."""
        self._descriptor = -1  # the system reuses the number for the next file
        self._release()


def _release(descriptor: int, scratch: Path, process: int) -> None:
    os.close(descriptor)
    if os.getpid() == process:  # a forked child drops its copy of the object alone
        scratch.unlink(missing_ok=True)


def _write_all(descriptor: int, pieces: Sequence[bytes]) -> None:
    written = os.writev(descriptor, pieces)
    if written == sum(map(len, pieces)):
        return
    for piece in pieces:  # a nearly full disk, or a signal, cut the call short
        rest = memoryview(piece)[written:]
        written = max(written - len(piece), 0)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


class Files(Protocol):
    """The files under a root. Paths are relative to it and use forward slashes."""

    url: str

    def read(self, path: str) -> bytes:
        """The file's bytes; FileNotFoundError when it does not exist."""

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Some of the file's bytes, fewer at its end; FileNotFoundError when it does not exist."""

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file."""

    def create_staged(self, path: str) -> StagedFile:
        """Begin a file that appears at `path` when it is finished. Only one writer uses `path`."""

    def upload(self, path: str, local: Path) -> None:
        """Write a whole file from a local one."""

    def download(self, path: str, local: Path) -> None:
        """Copy a file to this disk; FileNotFoundError when it does not exist."""

    def create(self, path: str, data: bytes) -> None:
        """Write a whole file that must not exist yet; FileExistsError when it does."""

    def delete(self, path: str) -> None:
        """Remove a file, if it exists."""

    def entries(self, folder: str) -> list[Entry]:
        """What the folder holds, by name, without temporary files; [] when it does not exist."""

    def stat(self, path: str) -> Entry | None:
        """The file's entry, or None."""

    def temporary_entries(self, folder: str) -> list[Entry]:
        """Temporary files in the folder, of active and of interrupted writers."""

    def local_path(self, path: str) -> Path | None:
        """Path of the file on this disk, or None for a remote root."""
