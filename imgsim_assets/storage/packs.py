"""Packs: many images in one immutable file, with an index of them at its end.

    8 bytes   magic number
    ...       the images' bytes, one after the other
    n x 32    their sha256, ascending; n x 8 their offsets; n x 4 their lengths
    8 bytes   n
    8 bytes   magic number of the end

Numbers are unsigned and little-endian. A pack appears as a whole, so a reader that sees its end
can read all of it.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.files import Entry, Files
from imgsim_assets.storage.references import REFERENCE_PACKS, is_intact, is_reference_pack

PACKS = "_blobs/packs"
# A full pack is closed: large enough that 10^8 images are few files to list, small enough to be
# rewritten in a second.
PACK_BYTES = 128 * 2**20

_BEGIN = b"imgpack1"
_END = b"imgpackE"
_TRAILER_BYTES = 16
_BYTES_PER_IMAGE = 32 + 8 + 4
# One read from the end of a pack covers the whole index of most packs.
_TAIL_BYTES = 64 * 1024
SHA256 = np.dtype("S32")


@dataclass(frozen=True)
class PackEntries:
    """The index of a pack: sha256 (n,) S32, ascending; start (n,) uint64; length (n,) uint32."""

    sha256: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.sha256)


class PackWriter:
    """One pack that is being written, under a new name.

    Nobody else can read it before `finish`. Not safe for use by several threads at once.
    """

    def __init__(self, files: Files, *, of_references: bool = False) -> None:
        self.name = _new_name(of_references)
        self._file = files.create_staged(f"{PACKS}/{self.name}")
        self._file.append([_BEGIN])
        self._locations: dict[bytes, tuple[int, int]] = {}
        self._entries: PackEntries | None = None

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._locations

    def __len__(self) -> int:
        return len(self._locations)

    @property
    def is_full(self) -> bool:
        """Whether it has reached `PACK_BYTES`."""
        return self._file.size >= PACK_BYTES

    @property
    def retryable(self) -> bool:
        """Whether `finish` may be called again after it failed."""
        return self._file.retryable

    def filter_known(self, digests: Mapping[bytes, Any]) -> Set[bytes]:
        """The digests of images that it holds."""
        return self._locations.keys() & digests.keys()

    def add(self, digests: Sequence[bytes], images: Sequence[bytes]) -> None:
        """Append images that it does not hold yet; all of them, or an OSError and none."""
        lengths = list(map(len, images))
        starts = itertools.accumulate(lengths, initial=self._file.size)
        self._file.append(images)
        # Not strict: the last start is where the next image will begin.
        locations = zip(starts, lengths, strict=False)
        self._locations.update(zip(digests, locations, strict=True))

    def read(self, digest: bytes) -> bytes:
        """An image's bytes, readable until `close`."""
        return self._file.read(*self._locations[digest])

    def finish(self) -> PackEntries:
        """Publish the pack, whole and durable, and return its index."""
        if self._entries is None:
            entries = self._sorted_entries()
            count = len(entries).to_bytes(8, "little")
            columns = (entries.sha256, entries.start, entries.length)
            self._file.append([*(column.tobytes() for column in columns), count, _END])
            self._entries = entries
        self._file.finish()
        return self._entries

    def close(self) -> None:
        """Close the pack; without `finish` it is dropped."""
        self._file.close()

    def _sorted_entries(self) -> PackEntries:
        digests = np.array(list(self._locations), SHA256)
        locations = np.array(list(self._locations.values()), np.uint64).reshape(-1, 2)
        order = np.argsort(digests)
        return PackEntries(
            digests[order], locations[order, 0], locations[order, 1].astype(np.uint32)
        )


def _new_name(of_references: bool) -> str:
    """A random name, which says what the pack holds."""
    while True:
        name = uuid.uuid4().hex
        if of_references:
            return REFERENCE_PACKS + name[len(REFERENCE_PACKS) :]
        if not is_reference_pack(name):
            return name


def pack_size(lengths: np.ndarray) -> int:
    """Bytes of a pack of images of these lengths."""
    return len(_BEGIN) + int(lengths.sum()) + len(lengths) * _BYTES_PER_IMAGE + _TRAILER_BYTES


def list_packs(files: Files) -> list[Entry]:
    """The published packs, by name."""
    return files.entries(PACKS)


def read_pack_entries(files: Files, pack: Entry) -> PackEntries:
    """The index at the end of a pack.

    Raises:
        FileNotFoundError: The pack does not exist any more.
        CorruptFileError: The file is not a pack.
    """
    path = f"{PACKS}/{pack.name}"
    begin = max(pack.size - _TAIL_BYTES, 0)
    tail = files.read_range(path, begin, pack.size - begin)
    count = int.from_bytes(tail[-_TRAILER_BYTES:-8], "little")
    size = count * _BYTES_PER_IMAGE + _TRAILER_BYTES
    if tail[-8:] != _END or size + len(_BEGIN) > pack.size:
        raise _damaged(files, pack)
    if size > len(tail):
        tail = files.read_range(path, pack.size - size, size)
    return entries_from_bytes(tail[-size:-_TRAILER_BYTES], count)


def verify_pack(files: Files, pack: Entry) -> tuple[int, list[str]]:
    """Check every image of a pack against its sha256.

    Returns:
        The number of images, and the sha256 (hex) of the damaged ones. A pack that garbage
        collection has deleted has no images.

    Raises:
        CorruptFileError: The file is not a pack, or has other bytes beside its images.
    """
    try:
        entries = read_pack_entries(files, pack)
        data = memoryview(files.read(f"{PACKS}/{pack.name}"))
    except FileNotFoundError:
        return 0, []
    if data[: len(_BEGIN)] != _BEGIN or not _covers(entries, pack.size):
        raise _damaged(files, pack)
    damaged = []
    locations = zip(entries.start.tolist(), entries.length.tolist(), strict=True)
    for row, (start, length) in enumerate(locations):
        digest = entries.sha256[row : row + 1].tobytes()
        if not is_intact(pack.name, digest, data[start : start + length]):
            damaged.append(digest.hex())
    return len(entries), damaged


def _covers(entries: PackEntries, size: int) -> bool:
    """Whether the images follow each other without gaps, and with the index fill the pack."""
    order = np.lexsort((entries.length, entries.start))
    lengths = entries.length[order].astype(np.uint64)
    ends = len(_BEGIN) + np.cumsum(lengths)
    return pack_size(entries.length) == size and bool(
        (entries.start[order] == ends - lengths).all()
    )


def _damaged(files: Files, pack: Entry) -> CorruptFileError:
    return CorruptFileError(
        f"{files.url}/{PACKS}/{pack.name} is damaged; 'imgsim verify --repair' keeps its intact "
        "images, and the next run of the images fetches the others again"
    )


def entries_from_bytes(columns: bytes | np.ndarray, count: int) -> PackEntries:
    """The index of `count` images, from the bytes of its columns."""
    return PackEntries(
        np.frombuffer(columns, SHA256, count),
        np.frombuffer(columns, "<u8", count, 32 * count),
        np.frombuffer(columns, "<u4", count, 40 * count),
    )
