"""Image bytes by the hash of their content, shared by all catalogues of a store."""

from __future__ import annotations

import hashlib
import time

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.files import Files

FOLDER = "_blobs"

# A blob found already there is marked as fresh when it is older than this, so that a
# collection running beside the writer cannot take it before the writer's commit names it.
REFRESH_AFTER_SECONDS = 3600.0


class Blobs:
    """Content-addressed bytes: the sha256 (hex) is both name and checksum."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def put(self, data: bytes) -> str:
        """Store bytes and return their sha256; the same bytes are stored once.

        Not durable before `flush`: call it before a commit names the blob.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        path = blob_path(sha256)
        found = self._files.stat(path)
        # An existing file of another size is what a power loss left: write it anew.
        if found is None or found.size != len(data):
            self._files.write(path, data, durable=False)
        elif time.time() - found.modified > REFRESH_AFTER_SECONDS:
            self._files.touch(path)
        return sha256

    def get(self, sha256: str) -> bytes:
        """The bytes; CorruptFileError when they are gone or no longer match their name."""
        path = blob_path(sha256)
        try:
            data = self._files.read(path)
        except FileNotFoundError:
            raise CorruptFileError(
                f"image {sha256} is not in {self._files.url}/{FOLDER}; the next run of the "
                "images asset fetches it again"
            ) from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CorruptFileError(
                f"{self._files.url}/{path} no longer matches its name; the next run of the "
                "images asset fetches it again"
            )
        return data

    def has(self, sha256: str, size: int) -> bool:
        """Whether a blob of this size is there (its content is checked on `get`)."""
        found = self._files.stat(blob_path(sha256))
        return found is not None and found.size == size

    def flush(self) -> None:
        """Make every blob that was put survive a power loss."""
        self._files.flush()


def blob_path(sha256: str) -> str:
    """Where a blob lies under the store's root."""
    return f"{FOLDER}/{sha256[:2]}/{sha256}"
