"""References: images that stay where they lie, outside of the store.

A pack of references has a record in place of each image: its path or URL, its size, and the
version of the file when it was read. Whoever asks for the image gets the bytes of that file, if
their sha256 still matches.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any, Final, Self

from imgsim_assets.errors import CorruptFileError

# How the names of packs of references begin; those of other packs are random.
REFERENCE_PACKS: Final = "00000000"
_CHECKSUM_BYTES = 32


@dataclass(frozen=True)
class Reference:
    """Where an image lies.

    Attributes:
        location: absolute path, or URL of an fsspec filesystem.
        size: in bytes.
        version: a text that changes with the file; see `file_version` and `object_version`.
    """

    location: str
    size: int
    version: str

    def to_bytes(self, digest: bytes) -> bytes:
        """The record of a pack: a checksum, of the image's sha256 as well, and a JSON document."""
        body = json.dumps([self.location, self.size, self.version]).encode()
        return hashlib.sha256(digest + body).digest() + body

    @classmethod
    def from_bytes(cls, digest: bytes, record: bytes) -> Self | None:
        """The reference of the record of an image (its sha256); None of a damaged one."""
        body = record[_CHECKSUM_BYTES:]
        if hashlib.sha256(digest + body).digest() != record[:_CHECKSUM_BYTES]:
            return None
        return cls(*json.loads(body))

    def read(self, digest: bytes) -> bytes:
        """The bytes of the image, verified.

        Raises:
            CorruptFileError: The file is gone or has changed.
        """
        try:
            data = _read(self.location, self.size + 1)
        except Exception as error:  # every filesystem has errors of its own library
            raise self._changed("cannot be read any more", error) from error
        if len(data) != self.size or hashlib.sha256(data).digest() != digest:
            raise self._changed("has changed since it was read", None)
        return data

    def is_current(self) -> bool:
        """Whether the file has the version that was read, without reading it."""
        try:
            return current_version(self.location) == self.version
        except Exception:  # every filesystem has errors of its own library
            return False

    def _changed(self, what: str, error: Exception | None) -> CorruptFileError:
        reason = f" ({type(error).__name__}: {error})" if error is not None else ""
        return CorruptFileError(
            f"{self.location} {what}{reason}; the next run of the images asset reads it again"
        )


def is_reference_pack(pack: str) -> bool:
    """Whether a pack, by its name, holds references instead of images."""
    return pack.startswith(REFERENCE_PACKS)


def is_intact(pack: str, digest: bytes, data: bytes | memoryview) -> bool:
    """Whether data of a pack is the image of this sha256, or an undamaged reference to it."""
    if is_reference_pack(pack):
        return Reference.from_bytes(digest, bytes(data)) is not None
    return hashlib.sha256(data).digest() == digest


def file_version(status: os.stat_result) -> str:
    """A text that changes when a local file changes."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def object_version(info: dict[str, Any]) -> str:
    """A text that changes when a file changes, from the info of its fsspec filesystem."""
    version = info.get("ETag") or info.get("etag") or info.get("LastModified")
    return f"{info.get('size')}-{version or info.get('mtime')}"


def current_version(location: str) -> str:
    """The version of the file at a path or URL now."""
    if "://" not in location:
        return file_version(os.stat(location))
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(location)
    return object_version(filesystem.info(path))


def _read(location: str, limit: int) -> bytes:
    if "://" not in location:
        descriptor = os.open(location, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return file.read(limit)
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(location)
    with filesystem.open(path, "rb") as file:
        data: bytes = file.read(limit)
        return data
