"""Sorted runs: the images of several packs in one sorted index, in memory or in an index file.

    n x 32    sha256, ascending; n x 8 their offsets; n x 4 their lengths; n x 4 their packs
    m x 32    the names of the packs
    8, 8      n and m
    32        sha256 of all bytes before it
    8         magic number of an index file

Readers map an index file without reading all of it: `verify_index_file` does. A changed byte can
only hide an image, whose bytes are then fetched again, or point to bytes whose sha256 differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.files import Entry, Files
from imgsim_assets.storage.packs import SHA256, PackEntries, entries_from_bytes

INDEXES = "_blobs/indexes"

_END = b"imgidx_2"
_HEX = re.compile(b"[0-9a-f]*")
_TRAILER_BYTES = 8 + 8 + 32 + 8
_BYTES_PER_IMAGE = 32 + 8 + 4 + 4
_SLICE_IMAGES = 2**20
# For merges in memory: large against the work per slice, small against the whole.
_MEMORY_SLICE_IMAGES = 2**14
_COPY_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class SortedRun:
    """Images of several packs, sorted by sha256; `pack` (uint32) indexes into `names`.

    `file` is the name of the index file, None for a run in memory.
    """

    entries: PackEntries
    pack: np.ndarray
    names: Sequence[str]
    file: str | None = None

    def __len__(self) -> int:
        return len(self.entries)


def pack_names(runs: Iterable[SortedRun]) -> set[str]:
    """The names of the packs of runs."""
    return {name for run in runs for name in run.names}


def select_runs_to_merge(
    new: Sequence[SortedRun], existing: Iterable[SortedRun]
) -> tuple[list[SortedRun], list[SortedRun]]:
    """The runs to merge, with every existing run that is not twice as large; and the others."""
    merged = list(new)
    kept: list[SortedRun] = []
    for run in sorted(existing, key=len):
        (merged if len(run) <= 2 * sum(map(len, merged)) else kept).append(run)
    return merged, kept


def merged_in_memory(runs: Sequence[SortedRun]) -> SortedRun:
    """Several runs as one, in memory."""
    if len(runs) == 1:
        return runs[0]
    merge = _Merge(runs, pack_names(runs), _MEMORY_SLICE_IMAGES)
    sha256, start, length, pack = (
        _concatenated(merge.column(number), len(merge)) for number in range(4)
    )
    return SortedRun(PackEntries(sha256, start, length), pack, merge.names)


def _concatenated(pieces: Iterator[np.ndarray], count: int) -> np.ndarray:
    """Pieces of a column as one array, without a second copy of them all in memory."""
    first = next(pieces)
    column = np.empty(count, first.dtype)
    start = 0
    for piece in chain([first], pieces):
        column[start : start + len(piece)] = piece
        start += len(piece)
    return column


class _Merge:
    """Several runs as one, without deleted packs, in slices of about `slice_images` images."""

    def __init__(
        self,
        runs: Sequence[SortedRun],
        published: Iterable[str],
        slice_images: int = _SLICE_IMAGES,
    ) -> None:
        self._runs = runs
        self.names = sorted(pack_names(runs) & set(published))
        numbers = {name: number for number, name in enumerate(self.names)}
        self._numbers = [
            np.array([numbers.get(name, -1) for name in run.names], np.int64) for run in runs
        ]
        slices = min(len(self) // slice_images + 1, 2**16)
        edges = [number * 2**16 // slices for number in range(1, slices)]
        keys = np.array([edge.to_bytes(2, "big") for edge in edges], SHA256)
        self._bounds = [
            [0, *run.entries.sha256.searchsorted(keys).tolist(), len(run)] for run in runs
        ]

    def __len__(self) -> int:
        """Images of all runs, also those of deleted packs."""
        return sum(map(len, self._runs))

    def column(self, number: int) -> Iterator[np.ndarray]:
        """A column of the merged run by slices: 0 sha256, 1 start, 2 length, 3 pack."""
        for slice_number in range(len(self._bounds[0]) - 1):
            keys, values = [], []
            for run, numbers, bounds in zip(self._runs, self._numbers, self._bounds, strict=True):
                rows = slice(bounds[slice_number], bounds[slice_number + 1])
                pack = numbers[run.pack[rows]]
                entries = run.entries
                columns = (entries.sha256, entries.start, entries.length)
                value = columns[number][rows] if number < 3 else pack.astype(np.uint32)
                keys.append(entries.sha256[rows][pack >= 0])
                values.append(value[pack >= 0])
            yield np.concatenate(values)[np.argsort(np.concatenate(keys), kind="stable")]


def write_run(files: Files, runs: Sequence[SortedRun], published: Iterable[str]) -> str:
    """Merge runs into an index file, and return its name."""
    merge = _Merge(runs, published)
    name = uuid.uuid4().hex
    count = 0
    checksum = hashlib.sha256()
    with contextlib.closing(files.create_staged(f"{INDEXES}/{name}")) as staged:

        def append(data: bytes) -> None:
            checksum.update(data)
            staged.append([data])

        for number in range(4):
            for piece in merge.column(number):
                append(piece.tobytes())
                count += len(piece) if number == 0 else 0
        append("".join(merge.names).encode())
        append(count.to_bytes(8, "little") + len(merge.names).to_bytes(8, "little"))
        staged.append([checksum.digest(), _END])
        staged.finish()
    return name


def read_run(files: Files, entry: Entry) -> SortedRun:
    """Open an index file; FileNotFoundError when it is gone, CorruptFileError when it is none."""
    path = f"{INDEXES}/{entry.name}"
    trailer = files.read_range(path, max(entry.size - _TRAILER_BYTES, 0), _TRAILER_BYTES)
    count = int.from_bytes(trailer[:8], "little")
    packs = int.from_bytes(trailer[8:16], "little")
    if (
        not count
        or trailer[-8:] != _END
        or count * _BYTES_PER_IMAGE + 32 * packs + _TRAILER_BYTES != entry.size
    ):
        raise CorruptFileError(f"{files.url}/{path} is not an index file")
    names_start = count * _BYTES_PER_IMAGE
    names = files.read_range(path, names_start, 32 * packs)
    columns = _mapped(files, path, names_start)
    pack = np.frombuffer(columns, "<u4", count, 44 * count)
    # Other damage is found when an image's bytes do not match its sha256.
    if not _HEX.fullmatch(names) or pack.max() >= packs:
        raise CorruptFileError(f"{files.url}/{path} is damaged")
    return SortedRun(
        entries_from_bytes(columns, count),
        pack,
        [names[start : start + 32].decode() for start in range(0, len(names), 32)],
        entry.name,
    )


def verify_index_file(files: Files, entry: Entry) -> bool:
    """Whether every byte of an index file is as it was written; a deleted file is intact."""
    path = f"{INDEXES}/{entry.name}"
    checksum = hashlib.sha256()
    covered = max(entry.size - 40, 0)
    try:
        for start in range(0, covered, _COPY_CHUNK_BYTES):
            length = min(_COPY_CHUNK_BYTES, covered - start)
            checksum.update(files.read_range(path, start, length))
        return files.read_range(path, covered, 41) == checksum.digest() + _END
    except FileNotFoundError:
        return True


def _mapped(files: Files, path: str, size: int) -> np.ndarray:
    """The first `size` bytes of a file, memory-mapped from the file or a temporary copy."""
    local = files.local_path(path)
    with open(local, "rb") if local is not None else tempfile.TemporaryFile() as file:
        if local is None:
            for start in range(0, size, _COPY_CHUNK_BYTES):
                file.write(files.read_range(path, start, min(_COPY_CHUNK_BYTES, size - start)))
            file.flush()
        return np.memmap(file, np.uint8, "r", shape=(size,))
