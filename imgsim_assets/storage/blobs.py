"""Image bytes by the hash of their content, shared by all catalogs of a store.

    _blobs/packs/<name>             many images, one after the other, and an index of them
    _blobs/indexes/<name>           the merged index of many packs
    _blobs/pins/<pack>              a run needs an image of this old pack: do not delete it
    _blobs/pending_delete/<pack>.*  garbage collection is about to delete this pack
    _blobs/missing/<sha256>         an image whose bytes are gone or damaged, to be fetched again

Every writer writes packs of its own. A pack is published as a whole, by `flush` or once it is
full. A published file is never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterable, Sequence, Set

import numpy as np

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.files import Files
from imgsim_assets.storage.pack_index import Location, PackIndex
from imgsim_assets.storage.packs import PACKS, SHA256, PackWriter, list_packs, pack_size
from imgsim_assets.storage.references import Reference, is_reference_pack

PINS = "_blobs/pins"
PENDING_DELETE = "_blobs/pending_delete"
MISSING = "_blobs/missing"

# A pack older than this is pinned when one of its images is put again, so that garbage collection
# cannot delete the pack before the writer's commit refers to the image.
PIN_AFTER_SECONDS = 600.0


class Blobs:
    """Content-addressed bytes: the sha256 (hex) is both name and checksum.

    Safe for use by several threads at once.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._index = PackIndex(files)
        self._lock = threading.RLock()
        self._publish_lock = threading.Lock()
        # Of images, and of references.
        self._open_writers: dict[bool, PackWriter] = {}
        self._unpublished: list[PackWriter] = []
        self._must_retry = False
        self._failure: BaseException | None = None
        self._pinned_at: dict[str, float] = {}
        self._missing: set[str] = set()
        self._restored: set[str] = set()
        self._listed_packs: set[str] = set()

    # ---- writing ----------------------------------------------------------------------

    def put(self, data: bytes) -> str:
        """Store bytes and return their sha256 (hex). The same bytes are stored once.

        Other processes can read them after `flush`: call it before a commit refers to the blob.
        """
        return self.put_many([data])[0]

    def put_many(self, images: Sequence[bytes]) -> list[str]:
        """`put` for several images, which is faster; an OSError means that none is stored."""
        return self.put_hashed([(hashlib.sha256(data).digest(), data) for data in images])

    def put_hashed(self, images: Sequence[tuple[bytes, bytes]]) -> list[str]:
        """`put_many` for pairs of the sha256 (32 bytes) and the image."""
        if not self._index.generation:
            self._index.refresh(0)
        names = [digest.hex() for digest, _ in images]
        if self._must_retry or self._failure is not None:
            # Accept no more images before the waiting packs are published.
            self._publish_packs(only_full=True)
        with self._lock:
            is_full = self._add(self._not_stored(dict(images)), of_references=False)
            self._restored.update(self._missing.intersection(names))
        if is_full:
            self._publish_packs(only_full=True)
        return names

    def put_references(self, images: Sequence[tuple[bytes, Reference]]) -> list[str]:
        """Store where images lie, in place of their bytes; pairs of the sha256 (32 bytes) and that.

        An image that lies in several places has several references: one of them may go away.

        Returns:
            The sha256 (hex) of the images.
        """
        if not self._index.generation:
            self._index.refresh(0)
        names = [digest.hex() for digest, _ in images]
        if self._must_retry or self._failure is not None:
            self._publish_packs(only_full=True)
        with self._lock:
            new = self._not_referenced(dict(images))
            records = {digest: reference.to_bytes(digest) for digest, reference in new.items()}
            is_full = self._add(records, of_references=True)
            self._restored.update(self._missing.intersection(names))
        if is_full:
            self._publish_packs(only_full=True)
        return names

    def _add(self, new: dict[bytes, bytes], *, of_references: bool) -> bool:
        """Append to the pack that is being written; whether it is full."""
        if not new:
            return False
        writer = self._open_writers.get(of_references)
        if writer is None:
            writer = PackWriter(self._files, of_references=of_references)
            self._open_writers[of_references] = writer
        writer.add(list(new), list(new.values()))
        return writer.is_full

    def _not_stored(self, images: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """The images, by digest, whose bytes have to be written."""
        for writer in self._writers():
            if not is_reference_pack(writer.name):
                for digest in writer.filter_known(images):
                    del images[digest]
        for digest in self._index.filter_known(list(images)):
            if digest.hex() not in self._missing and any(
                self._pin(location.pack)
                for location in self._index.find(digest)
                if not is_reference_pack(location.pack)
            ):
                del images[digest]
        return images

    def _not_referenced(self, images: dict[bytes, Reference]) -> dict[bytes, Reference]:
        """The images, by digest, without a reference to a file that is as it was."""
        for writer in self._writers():
            if is_reference_pack(writer.name):
                for digest in writer.filter_known(images):
                    del images[digest]
        for digest in self._index.filter_known(list(images)):
            for location in self._index.find(digest):
                if is_reference_pack(location.pack) and self._is_current(
                    digest, location, images[digest]
                ):
                    del images[digest]
                    break
        return images

    def _is_current(self, digest: bytes, location: Location, new: Reference) -> bool:
        """Whether a published reference is as good as a new one, and stays until the commit."""
        try:
            stored = Reference.from_bytes(digest, read_blob(self._files, location))
        except FileNotFoundError:  # garbage collection has copied it to another pack
            return False
        if stored is None or not self._pin(location.pack):
            return False
        return stored == new or (stored.location != new.location and stored.is_current())

    def _pin(self, pack: str) -> bool:
        """Pin a pack if it is old; whether it exists and will when the caller commits."""
        entry = self._index.packs.get(pack)
        if entry is None:  # another thread has just refreshed the index
            return False
        if time.time() - self._pinned_at.get(pack, entry.modified) <= PIN_AFTER_SECONDS:
            return True
        # In this order: garbage collection first announces which pack it deletes and then looks
        # for the pin, so that one of the two sees the other.
        self._files.write(f"{PINS}/{pack}", b"")
        if any(entry.name.startswith(pack) for entry in self._files.entries(PENDING_DELETE)):
            return False
        if self._files.stat(f"{PACKS}/{pack}") is None:
            return False
        self._pinned_at[pack] = time.time()
        return True

    def flush(self) -> None:
        """Make every blob that was put durable and readable by other processes.

        When writing fails, the error is raised. On an object store the next flush or put tries
        again. A disk that failed may have lost every blob since the last flush: all later calls
        raise the error, and the blobs have to be put again through a store opened again.
        """
        with self._lock:  # images that are put from now on may be unpublished afterwards
            restored = list(self._restored)
        self._publish_packs()
        for sha256 in restored:
            self._files.delete(f"{MISSING}/{sha256}")
            with self._lock:
                self._missing.discard(sha256)
                self._restored.discard(sha256)
        self._index.compact()

    def _publish_packs(self, *, only_full: bool = False) -> None:
        """Publish packs. Concurrent callers wait, since the packs may hold their images."""
        with self._publish_lock:
            with self._lock:
                if self._failure is not None:
                    raise self._failure
                # An empty writer, whose first image could not be added, is falsy.
                for kind, writer in list(self._open_writers.items()):
                    if writer and (writer.is_full or not only_full):
                        self._unpublished.append(writer)
                        del self._open_writers[kind]
            while self._unpublished:
                self._publish(self._unpublished[0])
            self._must_retry = False

    def _publish(self, writer: PackWriter) -> None:
        try:
            entries = writer.finish()
        except BaseException as error:  # clients of object stores raise their own errors
            if writer.retryable:
                self._must_retry = True
            else:
                # Callers must not go on as if the images were stored.
                self._failure = error
                self._close(writer)
            raise
        with self._lock:
            # In this order: another thread may be reading an image of the pack.
            self._index.add(writer.name, pack_size(entries.length), time.time(), entries)
            self._close(writer)

    def _close(self, writer: PackWriter) -> None:
        with self._lock:
            self._unpublished.remove(writer)
            writer.close()

    def _writers(self) -> list[PackWriter]:
        return [*self._unpublished, *self._open_writers.values()]

    # ---- reading ----------------------------------------------------------------------

    def get(self, sha256: str) -> bytes:
        """The bytes of a blob, verified.

        Raises:
            CorruptFileError: The bytes are missing or do not match the sha256.
        """
        digest = bytes.fromhex(sha256)
        changed: CorruptFileError | None = None
        damaged: Location | None = None
        for pack, data in self._read_unpublished(digest):
            try:
                found = _verified(pack, digest, data)
            except CorruptFileError as error:
                changed = error
                continue
            if found is not None:
                return found
        for may_refresh in (True, False):
            seen = self._index.generation
            for location in self._index.find(digest):
                try:
                    data = read_blob(self._files, location)
                    found = _verified(location.pack, digest, data)
                except FileNotFoundError:  # garbage collection has copied it to another pack
                    continue
                except CorruptFileError as error:
                    changed = error
                    continue
                if found is not None:
                    return found
                damaged = location
            if may_refresh:
                self._index.refresh(seen)
        if changed is not None:
            raise changed
        fix = "the next run of the images asset fetches it again"
        if damaged is not None:
            raise CorruptFileError(
                f"image {sha256} in {self._files.url}/{PACKS}/{damaged.pack} does not match its "
                f"sha256; {fix}"
            )
        raise CorruptFileError(f"image {sha256} is not in {self._files.url}/{PACKS}; {fix}")

    def _read_unpublished(self, digest: bytes) -> list[tuple[str, bytes]]:
        with self._lock:
            return [
                (writer.name, writer.read(digest)) for writer in self._writers() if digest in writer
            ]

    def contains(self, sha256: Iterable[str]) -> list[bool]:
        """Which blobs (hex) are in a published pack, by the packs' indexes as they are now."""
        digests = np.array([bytes.fromhex(name) for name in sha256], SHA256)
        if len(digests):
            self._index.refresh()
        contained: list[bool] = self._index.contains(digests).tolist()
        return contained

    def is_readable(self, sha256: str) -> bool:
        """Whether the store has a copy, or refers to a file that has not changed; reads neither."""
        digest = bytes.fromhex(sha256)
        for location in self._index.find(digest):
            if not is_reference_pack(location.pack):
                return True
            with contextlib.suppress(FileNotFoundError):  # garbage collection was faster
                reference = Reference.from_bytes(digest, read_blob(self._files, location))
                if reference is not None and reference.is_current():
                    return True
        return False

    def packs_of(self, sha256: Iterable[str]) -> set[str]:
        """The names of published packs that hold these blobs (hex), as far as this object knows.

        It knows every pack that it published or that was there when it last listed them.
        """
        digests = np.array([bytes.fromhex(name) for name in sha256], SHA256)
        return self._index.packs_of(digests) if len(digests) else set()

    def lost_packs(self, names: Set[str]) -> set[str]:
        """Those of some packs that are not in the store: one listing, which later calls reuse."""
        if not names <= self._listed_packs:
            self._listed_packs = {entry.name for entry in list_packs(self._files)}
        return {*names} - self._listed_packs

    # ---- missing blobs ----------------------------------------------------------------

    def report_missing(self, sha256: str) -> None:
        """Record that a blob, for which `get` failed, has to be fetched again."""
        self._files.write(f"{MISSING}/{sha256}", b"")
        with self._lock:
            self._missing.add(sha256)
            self._restored.discard(sha256)

    def missing(self) -> set[str]:
        """The sha256 (hex) of blobs that were reported missing and not put since."""
        reported = {entry.name for entry in self._files.entries(MISSING)}
        with self._lock:
            self._missing = reported
            return reported - self._restored


def _verified(pack: str, digest: bytes, data: bytes) -> bytes | None:
    """The image that data of a pack is or refers to; None when the data is damaged.

    Raises:
        CorruptFileError: The file that it refers to is gone or has changed.
    """
    if is_reference_pack(pack):
        reference = Reference.from_bytes(digest, data)
        return reference.read(digest) if reference is not None else None
    return data if hashlib.sha256(data).digest() == digest else None


def read_blob(files: Files, location: Location) -> bytes:
    """The bytes at a location, not verified; FileNotFoundError when the pack is gone."""
    return files.read_range(f"{PACKS}/{location.pack}", location.start, location.length)
