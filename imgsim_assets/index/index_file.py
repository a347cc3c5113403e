"""The file of an index, which is read by explicit ranges and verified part by part."""

from __future__ import annotations

import os
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.errors import CorruptFileError, StoreError

# Bytes that have a checksum of their own.
PART_BYTES = 4 << 20
_BUFFER_BYTES = 1 << 18


def part_checksums(path: Path) -> list[int]:
    """The CRC-32 of each part of a file, by which a reader of some parts verifies these alone."""
    with open(path, "rb") as file:
        return [zlib.crc32(part) for part in iter(lambda: file.read(PART_BYTES), b"")]


class IndexFile:
    """A file that stays open, and may be deleted meanwhile.

    Args:
        path: the file.
        checksums: its `part_checksums`; none, if the whole file was verified.
        damaged: makes the error of a part that does not match its checksum.
    """

    def __init__(
        self,
        path: Path,
        checksums: Sequence[int] = (),
        damaged: Callable[[], CorruptFileError] | None = None,
    ) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._damaged = damaged
        self._unverified = dict(enumerate(checksums))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file).st_size

    def read(self, array: NDArray[np.generic], offset: int) -> None:
        """Fill an array with what the file has at an offset.

        Raises:
            CorruptFileError: when a part that is read does not match its checksum.
            StoreError: when the file has become shorter.
        """
        self._verify(offset, offset + array.nbytes)
        if os.preadv(self._file, [array.view(np.uint8).data], offset) != array.nbytes:
            raise StoreError("the index file was truncated while it was open")

    def verify(self) -> None:
        """Verify the parts that nothing has read yet; CorruptFileError as of `read`."""
        self._verify(0, PART_BYTES * (1 + max(self._unverified, default=-1)))

    def _verify(self, start: int, stop: int) -> None:
        for part in range(start // PART_BYTES, -(-stop // PART_BYTES)):
            expected = self._unverified.get(part)
            if expected is None:
                continue
            if self._checksum(part) != expected and self._damaged is not None:
                raise self._damaged()
            self._unverified.pop(part, None)

    def _checksum(self, part: int) -> int:
        # A small buffer stays in the cache of the processor.
        buffer, checksum = memoryview(bytearray(min(PART_BYTES, _BUFFER_BYTES))), 0
        for start in range(part * PART_BYTES, (part + 1) * PART_BYTES, len(buffer)):
            count = os.preadv(self._file, [buffer], start)
            checksum = zlib.crc32(buffer[:count], checksum)
        return checksum
