"""Image bytes by the hash of their content, shared by all catalogs of a store.

    _blobs/packs/<name>     many images one after the other, and where each lies
    _blobs/indexes/<name>   the same of many packs together
    _blobs/pins/<pack>    a run has come upon an image of this older pack, and goes on with it
    _blobs/pending_delete/<pack>.*  a collection is about to delete this pack
    _blobs/missing/<sha256>    an image whose bytes are gone or damaged, to be fetched again

Every writer has packs of its own, and they are put in place whole: by `flush`, or once they are
large enough. Nothing that is in place is ever changed.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Sequence

import numpy as np

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.pack_index import Location, PackIndex
from imgsim_assets.storage.packs import PACKS, SHA256, PackWriter, pack_size

PINS = "_blobs/pins"
PENDING_DELETE = "_blobs/pending_delete"
MISSING = "_blobs/missing"

# A pack in which an image was found is marked as used when it is older than this, so that a
# collection running beside the writer cannot take it before the writer's commit names it.
MARK_AFTER_SECONDS = 600.0


class Blobs:
    """Content-addressed bytes: the sha256 (hex) is both name and checksum.

    Safe for use by several threads at once.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._index = PackIndex(files)
        self._lock = threading.RLock()
        self._placing = threading.Lock()
        self._writer: PackWriter | None = None
        self._closed: list[PackWriter] = []
        self._is_stuck = False
        self._failure: BaseException | None = None
        self._marked: dict[str, float] = {}
        self._known_missing: set[str] = set()
        self._found_again: set[str] = set()

    # ---- writing ----------------------------------------------------------------------

    def put(self, data: bytes) -> str:
        """Store bytes and return their sha256; the same bytes are stored once.

        Others can read them after `flush`: call it before a commit names the blob.
        """
        return self.put_many([data])[0]

    def put_many(self, images: Sequence[bytes]) -> list[str]:
        """`put` for several at once, which is faster; an OSError means that none is stored."""
        return self.put_hashed([(hashlib.sha256(data).digest(), data) for data in images])

    def put_hashed(self, images: Sequence[tuple[bytes, bytes]]) -> list[str]:
        """`put_many` for images whose sha256 is known, each behind it."""
        if not self._index.generation:
            self._index.refresh(0)
        names = [digest.hex() for digest, _ in images]
        if self._is_stuck or self._failure is not None:
            # Nothing more is taken in, or fetched to be, before what waits is in its place.
            self._place_all(full_ones=True)
        with self._lock:
            new = self._not_stored(dict(images))
            if new:
                if self._writer is None:
                    self._writer = PackWriter(self._files)
                self._writer.add(list(new), list(new.values()))
            self._found_again.update(self._known_missing.intersection(names))
            is_full = self._writer is not None and self._writer.is_full
        if is_full:
            self._place_all(full_ones=True)
        return names

    def _not_stored(self, images: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Those of some images, by their digests, whose bytes have to be written."""
        for writer in self._writers():
            for digest in writer.filter_known(images):
                del images[digest]
        for digest in self._index.filter_known(list(images)):
            if digest.hex() not in self._known_missing and any(
                self._stays(place.pack) for place in self._index.find(digest)
            ):
                del images[digest]
        return images

    def _stays(self, pack: str) -> bool:
        """Whether a pack is there and will be when the caller commits; an old one is marked."""
        entry = self._index.packs.get(pack)
        if entry is None:  # another thread has just seen that it is gone
            return False
        if time.time() - self._marked.get(pack, entry.modified) <= MARK_AFTER_SECONDS:
            return True
        # In this order: a collection says which pack it is about to delete, and looks for the
        # mark before it does, so that one of the two sees the other.
        self._files.write(f"{PINS}/{pack}", b"")
        if any(entry.name.startswith(pack) for entry in self._files.entries(PENDING_DELETE)):
            return False
        if self._files.stat(f"{PACKS}/{pack}") is None:
            return False
        self._marked[pack] = time.time()
        return True

    def flush(self) -> None:
        """Make every blob that was put durable, and readable by others.

        Raises the error when that fails. On an object store the next flush, or put, tries again.
        A disk that failed may have lost what was put since the last flush: the error is raised
        ever after, and the blobs have to be put again through a store that is opened anew.
        """
        with self._lock:  # what is put from now on need not be in place afterwards
            found_again = list(self._found_again)
        self._place_all()
        for sha256 in found_again:
            self._files.delete(f"{MISSING}/{sha256}")
            with self._lock:
                self._known_missing.discard(sha256)
                self._found_again.discard(sha256)
        self._index.compact()

    def _place_all(self, *, full_ones: bool = False) -> None:
        """Put packs in place; who calls meanwhile waits, since they may hold images of theirs."""
        with self._placing:
            with self._lock:
                if self._failure is not None:
                    raise self._failure
                # One to which nothing could be added yet holds nothing to be put in place.
                if self._writer and (self._writer.is_full or not full_ones):
                    self._closed.append(self._writer)
                    self._writer = None
            while self._closed:
                self._place(self._closed[0])
            self._is_stuck = False

    def _place(self, writer: PackWriter) -> None:
        try:
            contents = writer.finish()
        except BaseException as error:  # object stores have errors of their own libraries
            if writer.retryable:
                self._is_stuck = True
            else:
                # Whoever goes on as if its images were stored would name what is not there.
                self._failure = error
                self._close(writer)
            raise
        with self._lock:
            # In this order: somebody may be reading an image of the pack.
            self._index.add(writer.name, pack_size(contents.length), time.time(), contents)
            self._close(writer)

    def _close(self, writer: PackWriter) -> None:
        with self._lock:
            self._closed.remove(writer)
            writer.close()

    def _writers(self) -> list[PackWriter]:
        return [*self._closed, *([self._writer] if self._writer is not None else [])]

    # ---- reading ----------------------------------------------------------------------

    def get(self, sha256: str) -> bytes:
        """The bytes; CorruptFileError when they are gone or no longer match their name."""
        digest = bytes.fromhex(sha256)
        data = self._unplaced(digest)
        if data is not None and hashlib.sha256(data).digest() == digest:
            return data
        damaged: Location | None = None
        for may_look_again in (True, False):
            seen = self._index.generation
            for place in self._index.find(digest):
                try:
                    data = read_blob(self._files, place)
                except FileNotFoundError:  # collected, after its images had been copied
                    continue
                if hashlib.sha256(data).digest() == digest:
                    return data
                damaged = place
            if may_look_again:
                self._index.refresh(seen)
        mend = "the next run of the images asset fetches it again"
        if damaged is not None:
            raise CorruptFileError(
                f"image {sha256} in {self._files.url}/{PACKS}/{damaged.pack} no longer matches "
                f"its name; {mend}"
            )
        raise CorruptFileError(f"image {sha256} is not in {self._files.url}/{PACKS}; {mend}")

    def _unplaced(self, digest: bytes) -> bytes | None:
        with self._lock:
            for writer in self._writers():
                if digest in writer:
                    return writer.read(digest)
        return None

    def contains(self, sha256: Iterable[str]) -> list[bool]:
        """Which blobs are in place, by the indexes as they are now."""
        digests = np.array([bytes.fromhex(name) for name in sha256], SHA256)
        if len(digests):
            self._index.refresh()
        held: list[bool] = self._index.contains(digests).tolist()
        return held

    # ---- losses -----------------------------------------------------------------------

    def report_missing(self, sha256: str) -> None:
        """Note that a blob, which `get` refused, has to be fetched again."""
        self._files.write(f"{MISSING}/{sha256}", b"")
        with self._lock:
            self._known_missing.add(sha256)
            self._found_again.discard(sha256)

    def missing(self) -> set[str]:
        """The sha256 of blobs that were reported lost and not put since."""
        known = {entry.name for entry in self._files.entries(MISSING)}
        with self._lock:
            self._known_missing = known
            return known - self._found_again


def read_blob(files: Files, place: Location) -> bytes:
    """The bytes at a place, unchecked; FileNotFoundError when the pack is gone."""
    return files.read_range(f"{PACKS}/{place.pack}", place.start, place.length)
