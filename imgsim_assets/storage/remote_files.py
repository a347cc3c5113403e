"""Files on an object store, or another filesystem that fsspec knows."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import random
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.files import Entry, StagedFile

# Files to be uploaded wait on this disk under this prefix. Those of killed processes are removed
# once they are older than this.
_SCRATCH_PREFIX = "imgsim-upload-"
_ABANDONED_AFTER_S = 60.0

# Timeout of a write, plus its size at this rate. Clients of object stores time out earlier by
# themselves, except while a store withholds the permission to send the body.
_WRITE_TIMEOUT_S = 600.0
_MIN_BYTES_PER_SECOND = 100_000

# Environment variable: "true" if only one run writes at a time.
SINGLE_WRITER = "IMGSIM_SINGLE_WRITER"
# Folder of the files by which conditional writes are tested.
_PROBE = "_probe"

# Filesystems whose fsspec implementation creates a file atomically and only if it is absent.
# The fsspec default checks and then writes, which succeeds for both of two racing runs.
_ATOMIC_CREATE = {"s3", "s3a", "gs", "gcs", "memory"}


# A conflicting write (409) left the object as it was: S3 wants the request to be sent again.
_CONFLICT, _PRECONDITION_FAILED = 409, 412
_CONFLICT_ATTEMPTS = 8
_CONFLICT_PAUSE_S = 0.05


class RemoteFiles:
    """`Files` on a filesystem of fsspec.

    The first write of a process tests whether the object store honors conditional writes. One
    that ignores them would let two runs overwrite each other's commits in silence.

    Args:
        url: Such as "s3://bucket/folder".
        single_writer: Whether only one run writes at a time. The object store need not honor
            conditional writes then.

    Raises:
        StoreError: The URL names no bucket, its filesystem has no atomic create-if-absent, or the
            package for it is not installed.
    """

    def __init__(self, url: str, *, single_writer: bool = False) -> None:
        import fsspec

        protocol, _, path = url.partition("://")
        if not path.strip("/"):
            raise StoreError(f"the store {url!r} names no bucket; write {protocol}://bucket/folder")
        if protocol not in _ATOMIC_CREATE:
            raise StoreError(
                f"a store on {protocol}:// cannot be shared safely, because its filesystem has no "
                f"atomic create-if-absent; use a local path or one of "
                f"{', '.join(sorted(_ATOMIC_CREATE))}"
            )
        self.url = url.rstrip("/")
        self._single_writer = single_writer
        self._may_write = single_writer or protocol == "memory"
        # Another process may have written a moment ago, so listings are never cached.
        options = {} if protocol == "memory" else {"use_listings_cache": False}
        try:
            self._fs, self._base = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise StoreError(
                f"the store {url} needs an extra package: {error}. For s3:// install "
                "'imgsim_assets[s3]'"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        # The client's own state may hold credentials.
        return _reopened, (self.url, self._single_writer)

    def _path(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base

    def read(self, path: str) -> bytes:
        data: bytes = self._fs.cat_file(self._path(path))
        return data

    def read_range(self, path: str, start: int, length: int) -> bytes:
        if not length:
            return b""
        data: bytes = self._fs.cat_file(self._path(path), start=start, end=start + length)
        return data

    def write(self, path: str, data: bytes) -> None:
        self._require_conditional_writes()
        with self._translate_errors(len(data)) as options:
            self._fs.pipe_file(self._path(path), data, **options)

    def create_staged(self, path: str) -> StagedFile:
        self._require_conditional_writes()
        folder = Path(tempfile.gettempdir())
        _remove_abandoned(folder)
        scratch = folder / f"{_SCRATCH_PREFIX}{uuid.uuid4().hex}"
        return StagedFile(scratch, lambda local: self.upload(path, local), retryable=True).lock()

    def upload(self, path: str, local: Path) -> None:
        self._require_conditional_writes()
        with self._translate_errors(local.stat().st_size) as options:
            self._fs.put_file(str(local), self._path(path), **options)

    def download(self, path: str, local: Path) -> None:
        self._fs.get_file(self._path(path), str(local))

    def create(self, path: str, data: bytes) -> None:
        self._require_conditional_writes()
        if not self._single_writer:
            self._create(path, data)
        elif self.stat(path) is None:
            self.write(path, data)
        else:
            raise FileExistsError(path)

    def _create(self, path: str, data: bytes) -> None:
        """PUT with the condition that the object is absent."""
        for attempt in range(_CONFLICT_ATTEMPTS):
            with self._translate_errors(len(data)) as options:
                try:
                    self._fs.pipe_file(self._path(path), data, mode="create", **options)
                    return
                except OSError as error:
                    status = _http_status(error)
                    if isinstance(error, FileExistsError) or status == _PRECONDITION_FAILED:
                        raise FileExistsError(path) from error
                    if status != _CONFLICT:
                        raise
            time.sleep(random.uniform(0, _CONFLICT_PAUSE_S * 2**attempt))
        raise FileExistsError(path)

    def _require_conditional_writes(self) -> None:
        """Create one file twice, the first time that this object writes: the second must fail.

        Raises:
            StoreError: The object store ignores or does not support the condition.
        """
        if self._may_write:
            return
        path = f"{_PROBE}/{uuid.uuid4().hex}"
        try:
            self._create(path, b"")
            self._create(path, b"")
        except FileExistsError:
            self._may_write = True
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
        with contextlib.suppress(OSError):
            self.delete(path)
        if not self._may_write:
            raise StoreError(
                f"the store {self.url} does not honor conditional writes (If-None-Match: *), so "
                "two runs would overwrite each other's results in silence; use an object store "
                "that does, or, if only one run writes at a time, set 'single_writer: true' of "
                f"the store, {SINGLE_WRITER}=true in the environment, or single_writer=True in "
                "Python"
            )

    @contextlib.contextmanager
    def _translate_errors(self, size: int) -> Iterator[dict[str, float]]:
        """Options for a write of `size` bytes, whose errors are raised as StoreError."""
        seconds = _WRITE_TIMEOUT_S + size / _MIN_BYTES_PER_SECOND
        try:
            # Only filesystems behind a network have this option.
            yield {"timeout": seconds} if self._fs.async_impl else {}
        except TimeoutError as error:
            raise StoreError(
                f"the store {self.url} did not accept a file within {seconds:.0f} s"
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
            listed = self._fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        itself = self._path(folder).rstrip("/")
        entries = (_entry(item) for item in listed if str(item["name"]).rstrip("/") != itself)
        return sorted(entries, key=lambda entry: entry.name)

    def stat(self, path: str) -> Entry | None:
        try:
            return _entry(self._fs.info(self._path(path)))
        except FileNotFoundError:
            return None

    def local_path(self, path: str) -> Path | None:
        return None

    def temporary_entries(self, folder: str) -> list[Entry]:
        # A file appears under its name only when it is whole. Uploaded parts of a killed writer
        # are not listed; a lifecycle rule of the bucket removes them.
        return []


def _http_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error of fsspec; its message is worded by each server."""
    while error is not None:
        # The errors of botocore have a response, those of gcsfs a code.
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            return _s3_status(response)
        code = str(getattr(error, "code", ""))
        if code.isdecimal():
            return int(code)
        error = error.__cause__
    return None


def _s3_status(response: Mapping[str, Any]) -> int | None:
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status is not None:
        return int(status)
    code = str(response.get("Error", {}).get("Code"))
    return {"PreconditionFailed": _PRECONDITION_FAILED, "412": _PRECONDITION_FAILED}.get(code)


def _reopened(url: str, single_writer: bool) -> RemoteFiles:
    return RemoteFiles(url, single_writer=single_writer)


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary files that killed processes were about to upload."""
    newest = time.time() - _ABANDONED_AFTER_S
    for path in folder.glob(f"{_SCRATCH_PREFIX}*"):
        # Files of other users cannot be opened, and another process may be faster.
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < newest and not _is_locked(path):
                path.unlink()


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _entry(item: dict[str, Any]) -> Entry:
    name = str(item["name"]).rstrip("/").rsplit("/", 1)[-1]
    if item.get("type") == "directory":
        return Entry(name, 0, 0.0, is_folder=True)
    modified = item.get("LastModified") or item.get("mtime") or item.get("created") or 0.0
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    if isinstance(modified, datetime):
        modified = (modified if modified.tzinfo else modified.replace(tzinfo=UTC)).timestamp()
    return Entry(name, int(item.get("size") or 0), float(modified), is_folder=False)
