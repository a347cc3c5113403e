"""Packs: many images in one immutable file, with an index of them at its end.

    8 bytes   how a pack begins
    ...       the images' bytes, one after the other
    n x 32    their sha256, ascending; n x 8 where each begins; n x 4 its length
    8 bytes   n
    8 bytes   how a pack ends

Numbers are unsigned and little-endian. A pack is put in place whole, so that whoever can read
its end can read all of it.
"""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.files import Entry, Files

PACKS = "_blobs/packs"
# A pack is closed when it has reached this size: few enough files for a listing of 10^8 images,
# small enough to be rewritten in a second.
PACK_BYTES = 128 * 2**20

_BEGIN = b"imgpack1"
_END = b"imgpackE"
_TRAILER = 16
_PER_IMAGE = 32 + 8 + 4
# Read at once from the end of a pack: the whole index of most.
_TAIL = 64 * 1024
SHA256 = np.dtype("S32")


@dataclass(frozen=True)
class PackEntries:
    """What a pack holds: n digests (S32, ascending), first bytes (uint64), lengths (uint32)."""

    sha256: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.sha256)


class PackWriter:
    """One pack that is being written, under a name of its own.

    Nobody else can read it before `finish`. Not safe for use by several threads at once.
    """

    def __init__(self, files: Files) -> None:
        self.name = uuid.uuid4().hex
        self._file = files.create_staged(f"{PACKS}/{self.name}")
        self._file.append([_BEGIN])
        self._places: dict[bytes, tuple[int, int]] = {}
        self._contents: PackEntries | None = None

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def is_full(self) -> bool:
        """Whether it has reached its size."""
        return self._file.size >= PACK_BYTES

    def filter_known(self, digests: Mapping[bytes, Any]) -> Set[bytes]:
        """Which of some images it holds."""
        return self._places.keys() & digests.keys()

    def add(self, digests: Sequence[bytes], images: Sequence[bytes]) -> None:
        """Append images that it does not hold yet; all of them, or an OSError and none."""
        lengths = list(map(len, images))
        starts = itertools.accumulate(lengths, initial=self._file.size)
        self._file.append(images)
        # Not strict, for the last number is where the next image will start.
        places = zip(starts, lengths, strict=False)
        self._places.update(zip(digests, places, strict=True))

    def read(self, digest: bytes) -> bytes:
        """An image's bytes."""
        return self._file.read(*self._places[digest])

    def finish(self) -> PackEntries:
        """Put the pack in its place, whole and durable; it can be read until `close`."""
        if self._contents is None:
            contents = self._sorted()
            count = len(contents).to_bytes(8, "little")
            columns = (contents.sha256, contents.start, contents.length)
            self._file.append([*(column.tobytes() for column in columns), count, _END])
            self._contents = contents
        self._file.finish()
        return self._contents

    @property
    def retryable(self) -> bool:
        """Whether `finish` may be called again after it failed."""
        return self._file.retryable

    def close(self) -> None:
        """Close the pack, which is given up unless it is in its place."""
        self._file.close()

    def _sorted(self) -> PackEntries:
        digests = np.array(list(self._places), SHA256)
        places = np.array(list(self._places.values()), np.uint64).reshape(-1, 2)
        order = np.argsort(digests)
        return PackEntries(digests[order], places[order, 0], places[order, 1].astype(np.uint32))


def pack_size(lengths: np.ndarray) -> int:
    """Bytes of a pack of images of these lengths."""
    return len(_BEGIN) + int(lengths.sum()) + len(lengths) * _PER_IMAGE + _TRAILER


def list_packs(files: Files) -> list[Entry]:
    """The packs that are in place, by name."""
    return files.entries(PACKS)


def read_pack_entries(files: Files, pack: Entry) -> PackEntries:
    """What a pack holds, by its own index.

    Raises FileNotFoundError when it is gone, CorruptFileError when it is no pack.
    """
    path = f"{PACKS}/{pack.name}"
    begin = max(pack.size - _TAIL, 0)
    tail = files.read_range(path, begin, pack.size - begin)
    count = int.from_bytes(tail[-_TRAILER:-8], "little")
    size = count * _PER_IMAGE + _TRAILER
    if tail[-8:] != _END or size + len(_BEGIN) > pack.size:
        raise CorruptFileError(
            f"{files.url}/{path} is damaged; delete it, and imgsim verify names the images to fetch"
        )
    if size > len(tail):
        tail = files.read_range(path, pack.size - size, size)
    return entries_from_bytes(tail[-size:-_TRAILER], count)


def verify_pack(files: Files, pack: Entry) -> tuple[int, list[str]]:
    """How many images a pack holds, and the sha256 (hex) of those that are damaged.

    Raises CorruptFileError when it is no pack, and counts nothing of one that is gone.
    """
    try:
        contents = read_pack_entries(files, pack)
        whole = memoryview(files.read(f"{PACKS}/{pack.name}"))
    except FileNotFoundError:  # collected meanwhile
        return 0, []
    damaged = []
    places = zip(contents.start.tolist(), contents.length.tolist(), strict=True)
    for at, (start, length) in enumerate(places):
        digest = contents.sha256[at : at + 1].tobytes()
        if hashlib.sha256(whole[start : start + length]).digest() != digest:
            damaged.append(digest.hex())
    return len(contents), damaged


def entries_from_bytes(columns: bytes | np.ndarray, count: int) -> PackEntries:
    """The index of `count` images, from the bytes of its columns."""
    return PackEntries(
        np.frombuffer(columns, SHA256, count),
        np.frombuffer(columns, "<u8", count, 32 * count),
        np.frombuffer(columns, "<u4", count, 40 * count),
    )
