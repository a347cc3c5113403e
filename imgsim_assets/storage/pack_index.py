"""The merged index of all packs, searched by bisection.

Every pack ends with an index of its own, which is authoritative. The indexes of many packs are
merged into one index file, and index files into larger ones of at least twice the size: a
log-structured merge tree (O'Neil et al. 1996). Index files only save time. They are memory-mapped;
only the indexes of the few packs that no index file covers are held in memory.

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
import logging
import re
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.files import Entry, Files
from imgsim_assets.storage.packs import (
    SHA256,
    PackEntries,
    entries_from_bytes,
    list_packs,
    read_pack_entries,
)

INDEXES = "_blobs/indexes"
# This many packs without an index file are merged into one.
MIN_UNINDEXED_PACKS = 64

_END = b"imgidx_2"
_HEX = re.compile(b"[0-9a-f]*")
_TRAILER_BYTES = 8 + 8 + 32 + 8
_BYTES_PER_IMAGE = 32 + 8 + 4 + 4
_SLICE_IMAGES = 2**20
# For merges in memory: large against the work per slice, small against the whole.
_MEMORY_SLICE_IMAGES = 2**14
_COPY_CHUNK_BYTES = 64 * 2**20
_MAX_READERS = 16
_MAX_REFRESHES = 5

_log = logging.getLogger(__name__)


class Location(NamedTuple):
    """Where an image is stored: the name of a pack, an offset and a length in bytes."""

    pack: str
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class _SortedRun:
    """Images of several packs, sorted by sha256; `pack` (uint32) indexes into `names`.

    `file` is the name of the index file, None for a run in memory.
    """

    entries: PackEntries
    pack: np.ndarray
    names: Sequence[str]
    file: str | None = None

    def __len__(self) -> int:
        return len(self.entries)


class PackIndex:
    """A view of the published packs, as of the last `refresh`.

    Safe for use by several threads at once.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.RLock()
        self._runs: tuple[_SortedRun, ...] = ()
        self._covered: set[str] = set()
        self._obsolete: set[str] = set()
        self._damaged: set[str] = set()
        self.packs: Mapping[str, Entry] = {}
        self.generation = 0

    # ---- lookup -----------------------------------------------------------------------

    def find(self, digest: bytes) -> list[Location]:
        """The locations of every copy of an image, the newest pack's first."""
        if not self._runs:
            return []
        key = np.array(digest, SHA256)
        packs = self.packs  # another thread may replace it meanwhile
        locations = []
        for run in self._runs:
            keys = run.entries.sha256
            row = int(keys.searchsorted(key))
            while row < len(keys) and keys[row] == key:
                name = run.names[run.pack[row]]
                if name in packs:
                    start, length = run.entries.start[row], run.entries.length[row]
                    locations.append(Location(name, int(start), int(length)))
                row += 1
        if len(locations) > 1:
            locations.sort(key=lambda location: (-packs[location.pack].modified, location))
        return locations

    def filter_known(self, digests: Sequence[bytes]) -> list[bytes]:
        """The digests that it lists, perhaps in packs that are deleted. Cheaper than `contains`."""
        if not self._runs or not digests:
            return []
        requested = np.array(digests, SHA256)
        is_listed = np.zeros(len(requested), bool)
        for run in self._runs:
            keys = run.entries.sha256
            rows = np.minimum(keys.searchsorted(requested), len(keys) - 1)
            is_listed |= keys[rows] == requested
        return [digests[number] for number in np.flatnonzero(is_listed).tolist()]

    def contains(self, digests: np.ndarray) -> np.ndarray:
        """Which of these digests, (n,) S32, are in a published pack: (n,) bool."""
        contained = np.zeros(len(digests), bool)
        for _, is_found, _ in self._published_copies(digests, contained):
            contained |= is_found
        return contained

    def packs_of(self, digests: np.ndarray) -> set[str]:
        """The names of published packs that hold these digests, (n,) S32; of copies one pack."""
        contained = np.zeros(len(digests), bool)
        names: set[str] = set()
        for run, is_found, packs in self._published_copies(digests, contained):
            names.update(run.names[number] for number in np.unique(packs[is_found]).tolist())
            contained |= is_found
        return names

    def _published_copies(
        self, digests: np.ndarray, contained: np.ndarray
    ) -> Iterator[tuple[_SortedRun, np.ndarray, np.ndarray]]:
        """Runs, which digests each has in a published pack, and the numbers of those packs.

        The caller adds to `contained` what it has found, so that the search ends early.
        """
        for run in self._runs:
            keys = run.entries.sha256
            is_published = np.array([name in self.packs for name in run.names], bool)
            rows = np.minimum(keys.searchsorted(digests), len(keys) - 1)
            # Copies in several packs of one run are adjacent.
            for step in range(max(len(run.names), 1)):
                copies = np.minimum(rows + step, len(keys) - 1)
                is_same = keys[copies] == digests
                packs = run.pack[copies]
                yield run, is_same & is_published[packs] & ~contained, packs
                if not (is_same & ~contained).any():
                    break

    # ---- refresh ----------------------------------------------------------------------

    def refresh(self, seen: int | None = None) -> None:
        """List the published packs, and read the indexes of those that are new.

        With `seen`, a `generation`, nothing is done when another thread has refreshed since.
        """
        with self._lock:
            if seen is not None and seen != self.generation:
                return
            for _ in range(_MAX_REFRESHES):
                self.packs = {entry.name: entry for entry in list_packs(self._files)}
                if self.packs.keys() - self._covered:
                    self._open_index_files()
                if self._read_uncovered_packs():
                    break
            self.generation += 1

    def add(self, name: str, size: int, modified: float, entries: PackEntries) -> None:
        """Add a pack that has just been published."""
        with self._lock:
            self.packs = {**self.packs, name: Entry(name, size, modified, is_folder=False)}
            self._merge_into_memory([(name, entries)])

    def _open_index_files(self) -> None:
        listed = sorted(self._files.entries(INDEXES), key=lambda entry: -entry.size)
        runs = self._drop_merged({entry.name for entry in listed})
        opened = {run.file for run in runs}
        for entry in listed:
            if entry.name in opened | self._obsolete | self._damaged:
                continue
            try:
                run = _read_run(self._files, entry)
            except FileNotFoundError:  # another writer has merged it meanwhile
                continue
            except CorruptFileError as error:
                _log.warning("%s; the packs are read instead", error)
                self._damaged.add(entry.name)
                continue
            if any(name in self.packs and name not in self._covered for name in run.names):
                self._covered.update(run.names)
                runs.append(run)
            else:
                self._obsolete.add(entry.name)
        self._runs = tuple(runs)

    def _drop_merged(self, listed: Set[str]) -> list[_SortedRun]:
        """The runs without those whose index files another writer has merged into larger ones."""
        kept = [run for run in self._runs if run.file is None or run.file in listed]
        if len(kept) < len(self._runs):
            self._covered -= _names(self._runs) - _names(kept)
            self._obsolete.clear()
        return kept

    def _read_uncovered_packs(self) -> bool:
        """Read the indexes of packs that no run covers; whether all of them still existed."""
        uncovered = [
            entry
            for name, entry in self.packs.items()
            if name not in self._covered and name not in self._damaged
        ]
        is_complete = True
        read: list[tuple[str, PackEntries]] = []
        is_pooled = len(uncovered) > 1
        with ThreadPoolExecutor(_MAX_READERS) if is_pooled else contextlib.nullcontext() as pool:
            results = (pool.map if pool else map)(self._read_pack, uncovered)
            for entry, result in zip(uncovered, results, strict=True):
                if isinstance(result, PackEntries):
                    read.append((entry.name, result))
                elif result is None:
                    is_complete = False
                else:
                    _log.warning("%s", result)
                    self._damaged.add(entry.name)
        self._merge_into_memory(read)
        return is_complete

    def _read_pack(self, pack: Entry) -> PackEntries | CorruptFileError | None:
        try:
            return read_pack_entries(self._files, pack)
        except FileNotFoundError:
            return None
        except CorruptFileError as error:
            return error

    def _merge_into_memory(self, packs: Sequence[tuple[str, PackEntries]]) -> None:
        """Merge the indexes of packs into the runs in memory, so that these stay few."""
        self._covered.update(name for name, _ in packs)
        new = [
            _SortedRun(entries, np.zeros(len(entries), np.uint32), [name])
            for name, entries in packs
            if len(entries)
        ]
        if not new:
            return
        in_memory = [run for run in self._runs if run.file is None]
        in_files = [run for run in self._runs if run.file is not None]
        merged, kept = _select_runs_to_merge(new, in_memory)
        self._runs = (*in_files, *kept, _merged_in_memory(merged))

    # ---- index files ------------------------------------------------------------------

    def compact(self, *, at_least: int = MIN_UNINDEXED_PACKS) -> None:
        """Write an index file for the packs without one, if there are `at_least` of them."""
        with self._lock:
            in_memory = [run for run in self._runs if run.file is None]
            if len(_names(in_memory) & self.packs.keys()) < at_least:
                return
            in_files = [run for run in self._runs if run.file is not None]
            merged, kept = _select_runs_to_merge(in_memory, in_files)
            name = _write_run(self._files, merged, self.packs.keys())
            entry = self._files.stat(f"{INDEXES}/{name}")
            # Another writer may have merged it into a larger one already, or the disk damaged it.
            with contextlib.suppress(FileNotFoundError, CorruptFileError):
                if entry is not None:
                    self._runs = (*kept, _read_run(self._files, entry))
                    for run in merged:
                        if run.file is not None:
                            self._files.delete(f"{INDEXES}/{run.file}")

    def listed_in(self, pack: str) -> list[tuple[bytes, int, int]]:
        """The digest, offset and length of each image that the index files list in one pack."""
        self.refresh()
        listed = []
        for run in self._runs:
            number = list(run.names).index(pack) if pack in run.names else len(run.names)
            for row in np.flatnonzero(run.pack == number).tolist():
                digest = run.entries.sha256[row : row + 1].tobytes()
                start, length = run.entries.start[row], run.entries.length[row]
                listed.append((digest, int(start), int(length)))
        return listed

    def obsolete_files(self) -> list[Entry]:
        """Index files whose packs are all deleted, or covered by other index files."""
        used = {run.file for run in self._runs if self.packs.keys() & set(run.names)}
        return [entry for entry in self._files.entries(INDEXES) if entry.name not in used]


def _names(runs: Iterable[_SortedRun]) -> set[str]:
    return {name for run in runs for name in run.names}


def _select_runs_to_merge(
    new: Sequence[_SortedRun], existing: Iterable[_SortedRun]
) -> tuple[list[_SortedRun], list[_SortedRun]]:
    """The runs to merge, with every existing run that is not twice as large; and the others."""
    merged = list(new)
    kept: list[_SortedRun] = []
    for run in sorted(existing, key=len):
        (merged if len(run) <= 2 * sum(map(len, merged)) else kept).append(run)
    return merged, kept


def _merged_in_memory(runs: Sequence[_SortedRun]) -> _SortedRun:
    if len(runs) == 1:
        return runs[0]
    merge = _Merge(runs, _names(runs), _MEMORY_SLICE_IMAGES)
    sha256, start, length, pack = (
        _concatenated(merge.column(number), len(merge)) for number in range(4)
    )
    return _SortedRun(PackEntries(sha256, start, length), pack, merge.names)


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
        runs: Sequence[_SortedRun],
        published: Iterable[str],
        slice_images: int = _SLICE_IMAGES,
    ) -> None:
        self._runs = runs
        self.names = sorted(_names(runs) & set(published))
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


def _write_run(files: Files, runs: Sequence[_SortedRun], published: Iterable[str]) -> str:
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


def _read_run(files: Files, entry: Entry) -> _SortedRun:
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
    return _SortedRun(
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
