"""Whole files under one root, on a local disk or any fsspec filesystem.

Everything above this module sees the same promises on both: a file appears whole or
not at all, `create` succeeds for exactly one of several racing writers, and nothing
that a reader may have open is changed in place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self

from imgsim_assets.errors import StoreError


@dataclass(frozen=True)
class Entry:
    """One name in a folder. `modified` is in seconds since the epoch, 0.0 for folders."""

    name: str
    size: int
    modified: float
    is_folder: bool


# One call takes no more pieces than this (IOV_MAX of every system there is).
_MOST_PIECES = 1024


class StagedFile:
    """A file that is appended to and that nobody else can read before `finish`.

    It lies in `scratch` meanwhile, which is removed by `discard`, or when nobody holds the file
    any more. `may_try_again` says whether `finish` may be called again after it failed.
    """

    def __init__(
        self, scratch: Path, put_in_place: Callable[[Path], None], *, may_try_again: bool
    ) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.size = 0
        self.may_try_again = may_try_again
        self._scratch = scratch
        self._put_in_place = put_in_place
        self._descriptor = os.open(scratch, flags, 0o666)
        self._given_up = weakref.finalize(self, _give_up, self._descriptor, scratch, os.getpid())

    def lock(self) -> Self:
        """Tell other processes, as long as this one lives, that the scratch file is needed."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return self

    def append(self, pieces: Sequence[bytes]) -> None:
        """Add bytes at the end; nothing is added when that fails with an OSError."""
        try:
            for start in range(0, len(pieces), _MOST_PIECES):
                _write_all(self._descriptor, pieces[start : start + _MOST_PIECES])
        except BaseException:
            os.ftruncate(self._descriptor, self.size)
            os.lseek(self._descriptor, self.size, os.SEEK_SET)
            raise
        self.size += sum(map(len, pieces))

    def read(self, start: int, length: int) -> bytes:
        """Bytes that were appended."""
        return os.pread(self._descriptor, length, start)

    def finish(self) -> None:
        """Put the file in its place, whole and durable; it can be read until `discard`."""
        os.fsync(self._descriptor)
        self._put_in_place(self._scratch)

    def discard(self) -> None:
        """Close the file, which is given up unless it is in its place."""
        self._descriptor = -1  # the system gives the number to the next file that is opened
        self._given_up()


def _give_up(descriptor: int, scratch: Path, process: int) -> None:
    os.close(descriptor)
    if os.getpid() == process:  # a forked child drops its copy of the object alone
        scratch.unlink(missing_ok=True)


class Files(Protocol):
    """Paths are relative to the root and use forward slashes."""

    url: str

    def read(self, path: str) -> bytes:
        """The file's bytes; FileNotFoundError when there is none."""

    def read_part(self, path: str, start: int, length: int) -> bytes:
        """Some of the file's bytes, fewer at its end; FileNotFoundError when there is none."""

    def write(self, path: str, data: bytes) -> None:
        """Write a whole file."""

    def grow(self, path: str) -> StagedFile:
        """Begin a file that is put in place later, under a name that no other writer uses."""

    def upload(self, path: str, local: Path) -> None:
        """Write a whole file from a local one."""

    def download(self, path: str, local: Path) -> None:
        """Copy a file to one on this disk; FileNotFoundError when there is none."""

    def create(self, path: str, data: bytes) -> None:
        """Write a whole file that must not exist yet; FileExistsError when it does."""

    def delete(self, path: str) -> None:
        """Remove a file; one that is already gone is no error."""

    def entries(self, folder: str) -> list[Entry]:
        """What the folder holds, without what writers have not finished; [] when absent."""

    def stat(self, path: str) -> Entry | None:
        """The file's entry, or None."""

    def unfinished(self, folder: str) -> list[Entry]:
        """What interrupted writers left in the folder."""

    def local_path(self, path: str) -> Path | None:
        """Where the file lies on this machine's disk, or None for a remote root."""


# Writers' unfinished files: never listed, and collected once they are old.
UNFINISHED = ".unfinished-"


class LocalFiles:
    """Files on a local (or locally mounted) disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def read_part(self, path: str, start: int, length: int) -> bytes:
        descriptor = os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, length, start)
        finally:
            os.close(descriptor)

    def write(self, path: str, data: bytes) -> None:
        with self._unfinished(path) as (unfinished, final):
            with open(unfinished, "xb") as file:
                file.write(data)
                os.fsync(file.fileno())
            os.replace(unfinished, final)

    def grow(self, path: str) -> StagedFile:
        final = self.root / path
        final.parent.mkdir(parents=True, exist_ok=True)

        def put_in_place(unfinished: Path) -> None:
            os.replace(unfinished, final)
            _sync_folder(final.parent)

        # A disk that could not write says so once: the next sync may succeed nevertheless.
        return StagedFile(_unfinished_beside(final), put_in_place, may_try_again=False)

    def upload(self, path: str, local: Path) -> None:
        with self._unfinished(path) as (unfinished, final):
            shutil.copyfile(local, unfinished)
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, final)

    def download(self, path: str, local: Path) -> None:
        shutil.copyfile(self.root / path, local)

    def create(self, path: str, data: bytes) -> None:
        with self._unfinished(path) as (unfinished, final):
            with open(unfinished, "xb") as file:
                file.write(data)
                os.fsync(file.fileno())
            try:
                # A hard link is the one local operation that is atomic, carries the whole
                # content and fails when the name is taken.
                os.link(unfinished, final)
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise StoreError(
                        f"the filesystem under {self.root} has no hard links, so two runs could "
                        "overwrite each other's results; put the store on another disk or on "
                        "object storage (IMGSIM_STORE)"
                    ) from error
                raise

    def delete(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)

    def entries(self, folder: str) -> list[Entry]:
        try:
            with os.scandir(self.root / folder) as found:
                return sorted(
                    (entry for entry in map(_local_entry, found) if entry is not None),
                    key=lambda entry: entry.name,
                )
        except FileNotFoundError:
            return []

    def stat(self, path: str) -> Entry | None:
        try:
            status = os.stat(f"{self.root}/{path}")
        except FileNotFoundError:
            return None
        return Entry(path.rsplit("/", 1)[-1], status.st_size, status.st_mtime, is_folder=False)

    def local_path(self, path: str) -> Path | None:
        return self.root / path

    def unfinished(self, folder: str) -> list[Entry]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / folder) as found:
            return [
                Entry(item.name, item.stat().st_size, item.stat().st_mtime, is_folder=False)
                for item in found
                if item.name.startswith(UNFINISHED)
            ]
        return []

    @contextlib.contextmanager
    def _unfinished(self, path: str) -> Iterator[tuple[Path, Path]]:
        final = self.root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        unfinished = _unfinished_beside(final)
        try:
            yield unfinished, final
        finally:
            unfinished.unlink(missing_ok=True)
        _sync_folder(final.parent)


def _unfinished_beside(final: Path) -> Path:
    return final.parent / f"{UNFINISHED}{uuid.uuid4().hex}"


def _local_entry(item: os.DirEntry[str]) -> Entry | None:
    if item.name.startswith(UNFINISHED):
        return None
    if item.is_dir():
        return Entry(item.name, 0, 0.0, is_folder=True)
    try:
        status = item.stat()
    except FileNotFoundError:  # deleted by another process since the listing
        return None
    return Entry(item.name, status.st_size, status.st_mtime, is_folder=False)


def _write_all(descriptor: int, pieces: Sequence[bytes]) -> None:
    written = os.writev(descriptor, pieces)
    if written == sum(map(len, pieces)):
        return
    for piece in pieces:  # what a disk that is nearly full, or a signal, has left
        left = memoryview(piece)[written:]
        written = max(written - len(piece), 0)
        while left:
            left = left[os.write(descriptor, left) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# How files that are going to be uploaded are called on this disk, and the age from which one
# that no process has locked is removed.
_SCRATCH = "imgsim-upload-"
_ABANDONED_SECONDS = 60.0

# A write of which an object store has said nothing for so long is given up. Its library gives up
# requests that it waits for by itself, and earlier, but not one of which the store has yet to say
# that the body may follow.
_WRITE_SECONDS = 600.0
# Writes take this much longer by their size.
_SLOWEST_BYTES_PER_SECOND = 100_000

# Filesystems whose fsspec implementation creates a file atomically and only if it is
# absent. The fsspec default checks and then writes, which two racing runs both survive.
_ATOMIC_CREATE = {"s3", "s3a", "gs", "gcs", "memory"}


class RemoteFiles:
    """Files on a filesystem that fsspec knows (object stores, the in-memory one of tests)."""

    def __init__(self, url: str) -> None:
        import fsspec

        protocol, _, place = url.partition("://")
        if not place.strip("/"):
            raise StoreError(f"the store {url!r} names no bucket; write {protocol}://bucket/folder")
        if protocol not in _ATOMIC_CREATE:
            raise StoreError(
                f"a store on {protocol}:// cannot be shared safely, because its filesystem has no "
                f"atomic create-if-absent; use a local path or one of "
                f"{', '.join(sorted(_ATOMIC_CREATE))}"
            )
        self.url = url.rstrip("/")
        # Another process may have written a moment ago: never answer from a cached listing.
        options = {} if protocol == "memory" else {"use_listings_cache": False}
        try:
            self._fs, self._base = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise StoreError(
                f"the store {url} needs an extra package: {error}. For s3:// install "
                "'imgsim_assets[s3]'"
            ) from error

    def _path(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base

    def read(self, path: str) -> bytes:
        data: bytes = self._fs.cat_file(self._path(path))
        return data

    def read_part(self, path: str, start: int, length: int) -> bytes:
        if not length:
            return b""
        data: bytes = self._fs.cat_file(self._path(path), start=start, end=start + length)
        return data

    def write(self, path: str, data: bytes) -> None:
        with self._explained(len(data)) as options:
            self._fs.pipe_file(self._path(path), data, **options)

    def grow(self, path: str) -> StagedFile:
        folder = Path(tempfile.gettempdir())
        _sweep(folder)
        scratch = folder / f"{_SCRATCH}{uuid.uuid4().hex}"
        growing = StagedFile(scratch, lambda local: self.upload(path, local), may_try_again=True)
        return growing.lock()

    def upload(self, path: str, local: Path) -> None:
        with self._explained(local.stat().st_size) as options:
            self._fs.put_file(str(local), self._path(path), **options)

    def download(self, path: str, local: Path) -> None:
        self._fs.get_file(self._path(path), str(local))

    def create(self, path: str, data: bytes) -> None:
        with self._explained(len(data)) as options:
            try:
                self._fs.pipe_file(self._path(path), data, mode="create", **options)
            except OSError as error:
                # How a store that speaks S3 words a failed condition differs between them.
                if isinstance(error, FileExistsError) or "precondition" in str(error).lower():
                    raise FileExistsError(path) from error
                raise

    @contextlib.contextmanager
    def _explained(self, size: int) -> Iterator[dict[str, float]]:
        """Options for a write of so many bytes, whose failure is told in the store's words."""
        seconds = _WRITE_SECONDS + size / _SLOWEST_BYTES_PER_SECOND
        try:
            # What is no store over a network has no such option, and needs none.
            yield {"timeout": seconds} if self._fs.async_impl else {}
        except TimeoutError as error:
            raise StoreError(
                f"the store {self.url} has not taken a file in {seconds:.0f} s"
            ) from error
        except FileNotFoundError as error:
            raise StoreError(
                f"the store {self.url} cannot be written to: {error}; create the bucket first"
            ) from error

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(path))

    def entries(self, folder: str) -> list[Entry]:
        try:
            found = self._fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        own = self._path(folder).rstrip("/")
        listed = (_remote_entry(item) for item in found if str(item["name"]).rstrip("/") != own)
        return sorted(listed, key=lambda entry: entry.name)

    def stat(self, path: str) -> Entry | None:
        try:
            return _remote_entry(self._fs.info(self._path(path)))
        except FileNotFoundError:
            return None

    def local_path(self, path: str) -> Path | None:
        return None

    def unfinished(self, folder: str) -> list[Entry]:
        # Nothing is there under a name before it is there whole. Parts of large files whose
        # writer was killed are for a rule of the bucket: they are not listed among its files.
        return []


def _sweep(folder: Path) -> None:
    """Remove what killed processes left of files that they were about to upload."""
    long_ago = time.time() - _ABANDONED_SECONDS
    for path in folder.glob(f"{_SCRATCH}*"):
        # Another user's may not be opened, and another process may be faster.
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < long_ago and _is_abandoned(path):
                path.unlink()


def _is_abandoned(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _remote_entry(item: dict[str, Any]) -> Entry:
    name = str(item["name"]).rstrip("/").rsplit("/", 1)[-1]
    if item.get("type") == "directory":
        return Entry(name, 0, 0.0, is_folder=True)
    stamp = item.get("LastModified") or item.get("mtime") or item.get("created") or 0.0
    if isinstance(stamp, str):
        stamp = datetime.fromisoformat(stamp)
    if isinstance(stamp, datetime):
        stamp = (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
    return Entry(name, int(item.get("size") or 0), float(stamp), is_folder=False)


def open_files(url: str) -> Files:
    """The files under a local path, a `file://` URL or any other fsspec URL."""
    if url.startswith("file://"):
        return LocalFiles(Path(url.removeprefix("file://")).absolute())
    if "://" in url:
        return RemoteFiles(url)
    return LocalFiles(Path(url).expanduser().absolute())
