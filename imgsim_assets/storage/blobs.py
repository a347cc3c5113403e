"""Image bytes by the hash of their content, shared by all catalogues of a store."""

from __future__ import annotations

import hashlib
import time

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.files import Files

FOLDER = "_blobs"
_LOST = f"{FOLDER}/_lost"

# A blob found already there is marked as fresh when it is older than this, so that a
# collection running beside the writer cannot take it before the writer's commit names it.
REFRESH_AFTER_SECONDS = 600.0


class Blobs:
    """Content-addressed bytes: the sha256 (hex) is both name and checksum."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._known_lost: set[str] = set()

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
            try:
                self._files.touch(path)
            except FileNotFoundError:  # collected a moment ago
                self._files.write(path, data, durable=False)
        if sha256 in self._known_lost:
            self._files.delete(f"{_LOST}/{sha256}")
            self._known_lost.discard(sha256)
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

    def report_lost(self, sha256: str) -> None:
        """Remove a blob that `get` refused, and note that it has to be fetched again."""
        self._files.write(f"{_LOST}/{sha256}", b"")
        self._files.delete(blob_path(sha256))
        self._known_lost.add(sha256)

    def lost(self) -> set[str]:
        """The sha256 of blobs that were reported lost and not put since."""
        self._known_lost = {entry.name for entry in self._files.entries(_LOST)}
        return set(self._known_lost)

    def flush(self) -> None:
        """Make every blob that was put survive a power loss."""
        self._files.flush()


def blob_path(sha256: str) -> str:
    """Where a blob lies under the store's root."""
    return f"{FOLDER}/{sha256[:2]}/{sha256}"
