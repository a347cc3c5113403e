"""The merged index of all packs, searched by bisection.

Every pack ends with an index of its own, which is authoritative. The indexes of many packs are
merged into one index file, and index files into larger ones of at least twice the size: a
log-structured merge tree (O'Neil et al. 1996). Index files only save time. They are memory-mapped;
only the indexes of the few packs that no index file covers are held in memory.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.files import Entry, Files
from imgsim_assets.storage.packs import SHA256, PackEntries, list_packs, read_pack_entries
from imgsim_assets.storage.sorted_runs import (
    INDEXES,
    SortedRun,
    merged_in_memory,
    pack_names,
    read_run,
    select_runs_to_merge,
    write_run,
)

# This many packs without an index file are merged into one.
MIN_UNINDEXED_PACKS = 64
_MAX_READERS = 16
_MAX_REFRESHES = 5

_log = logging.getLogger(__name__)


class Location(NamedTuple):
    """Where an image is stored: the name of a pack, an offset and a length in bytes."""

    pack: str
    start: int
    length: int


class PackIndex:
    """A view of the published packs, as of the last `refresh`.

    Safe for use by several threads at once.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.RLock()
        self._runs: tuple[SortedRun, ...] = ()
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
            # np.unique would import numpy.ma, which takes longer than a small run's whole search.
            (found,) = np.bincount(packs[is_found], minlength=1).nonzero()
            names.update(run.names[number] for number in found.tolist())
            contained |= is_found
        return names

    def _published_copies(
        self, digests: np.ndarray, contained: np.ndarray
    ) -> Iterator[tuple[SortedRun, np.ndarray, np.ndarray]]:
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
                run = read_run(self._files, entry)
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

    def _drop_merged(self, listed: Set[str]) -> list[SortedRun]:
        """The runs without those whose index files another writer has merged into larger ones."""
        kept = [run for run in self._runs if run.file is None or run.file in listed]
        if len(kept) < len(self._runs):
            self._covered -= pack_names(self._runs) - pack_names(kept)
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
            SortedRun(entries, np.zeros(len(entries), np.uint32), [name])
            for name, entries in packs
            if len(entries)
        ]
        if not new:
            return
        in_memory = [run for run in self._runs if run.file is None]
        in_files = [run for run in self._runs if run.file is not None]
        merged, kept = select_runs_to_merge(new, in_memory)
        self._runs = (*in_files, *kept, merged_in_memory(merged))

    # ---- index files ------------------------------------------------------------------

    def compact(self, *, at_least: int = MIN_UNINDEXED_PACKS) -> None:
        """Write an index file for the packs without one, if there are `at_least` of them."""
        with self._lock:
            in_memory = [run for run in self._runs if run.file is None]
            if len(pack_names(in_memory) & self.packs.keys()) < at_least:
                return
            in_files = [run for run in self._runs if run.file is not None]
            merged, kept = select_runs_to_merge(in_memory, in_files)
            name = write_run(self._files, merged, self.packs.keys())
            entry = self._files.stat(f"{INDEXES}/{name}")
            # Another writer may have merged it into a larger one already, or the disk damaged it.
            with contextlib.suppress(FileNotFoundError, CorruptFileError):
                if entry is not None:
                    self._runs = (*kept, read_run(self._files, entry))
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
