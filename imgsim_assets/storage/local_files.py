"""Files on a disk of this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.files import Entry, StagedFile

# Temporary files of writers are not listed, and are garbage once they are old.
TEMPORARY_PREFIX = ".tmp-"
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class LocalFiles:
    """`Files` on a local (or locally mounted) disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def read_range(self, path: str, start: int, length: int) -> bytes:
        descriptor = os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, length, start)
        finally:
            os.close(descriptor)

    def write(self, path: str, data: bytes) -> None:
        with self._temporary_file(path) as (temporary, final):
            _write_durably(temporary, data)
            os.replace(temporary, final)

    def create_staged(self, path: str) -> StagedFile:
        final = self.root / path
        final.parent.mkdir(parents=True, exist_ok=True)

        def publish(temporary: Path) -> None:
            os.replace(temporary, final)
            _sync_folder(final.parent)

        # A disk reports a failed write once: a second fsync may succeed although data is lost.
        return StagedFile(_temporary_path(final), publish, retryable=False)

    def upload(self, path: str, local: Path) -> None:
        with self._temporary_file(path) as (temporary, final):
            shutil.copyfile(local, temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, final)

    def download(self, path: str, local: Path) -> None:
        shutil.copyfile(self.root / path, local)

    def create(self, path: str, data: bytes) -> None:
        with self._temporary_file(path) as (temporary, final):
            _write_durably(temporary, data)
            try:
                # A hard link is the one local operation that is atomic, carries the whole
                # content and fails when the name is taken.
                os.link(temporary, final)
            except OSError as error:
                if error.errno in _NO_HARD_LINKS:
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
            with os.scandir(self.root / folder) as scanned:
                listed = [_entry(item) for item in scanned if not _is_temporary(item)]
        except FileNotFoundError:
            return []
        return sorted(filter(None, listed), key=lambda entry: entry.name)

    def stat(self, path: str) -> Entry | None:
        try:
            status = os.stat(f"{self.root}/{path}")
        except FileNotFoundError:
            return None
        return Entry(path.rsplit("/", 1)[-1], status.st_size, status.st_mtime, is_folder=False)

    def local_path(self, path: str) -> Path | None:
        return self.root / path

    def temporary_entries(self, folder: str) -> list[Entry]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / folder) as scanned:
            return list(filter(None, map(_entry, filter(_is_temporary, scanned))))
        return []

    @contextlib.contextmanager
    def _temporary_file(self, path: str) -> Iterator[tuple[Path, Path]]:
        """Paths of a temporary file and of the final one; the folder is synced at the end."""
        final = self.root / path
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_path(final)
        try:
            yield temporary, final
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(final.parent)


def _temporary_path(final: Path) -> Path:
    return final.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"


def _is_temporary(item: os.DirEntry[str]) -> bool:
    return item.name.startswith(TEMPORARY_PREFIX)


def _entry(item: os.DirEntry[str]) -> Entry | None:
    if item.is_dir():
        return Entry(item.name, 0, 0.0, is_folder=True)
    try:
        status = item.stat()
    except FileNotFoundError:  # deleted by another process since the listing
        return None
    return Entry(item.name, status.st_size, status.st_mtime, is_folder=False)


def _write_durably(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
