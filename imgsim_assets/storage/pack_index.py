"""Where each image lies: the indexes of all packs as one, found by binary search.

Every pack ends with an index of its own, which is the truth. Once many packs have come
together, their indexes are merged into one index file, and index files into larger ones of at
least twice the size: a log-structured merge tree (O'Neil et al. 1996). Index files only save
time. They are mapped, not loaded; what is in memory are the indexes of the few packs that no
index file covers yet.

    n x 32    sha256, ascending; n x 8 where each begins; n x 4 its length; n x 4 its pack
    m x 32    the names of the packs
    8, 8, 8   n, m, and how an index file ends
"""

from __future__ import annotations

import contextlib
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
# Packs without an index file before they get one together.
LOOSE_PACKS = 64

_END = b"imgidx_1"
_HEX = re.compile(b"[0-9a-f]*")
_TRAILER = 24
_PER_IMAGE = 32 + 8 + 4 + 4
_SLICE = 2**20
# Of what stays in memory: large against the work for each slice, small against the whole.
_SLICE_IN_MEMORY = 2**14
_COPIED_AT_ONCE = 64 * 2**20
_READERS = 16
_TRIES = 5

_log = logging.getLogger(__name__)


class Location(NamedTuple):
    """Where an image lies: the name of its pack, and which bytes of it."""

    pack: str
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class _Run:
    """Images sorted by sha256; `pack` (uint32) numbers each one's pack in `names`."""

    contents: PackEntries
    pack: np.ndarray
    names: Sequence[str]
    file: str | None = None

    def __len__(self) -> int:
        return len(self.contents)


class PackIndex:
    """A view of the packs that are in place, as of the last `refresh`.

    Safe for use by several threads at once.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.RLock()
        self._runs: tuple[_Run, ...] = ()
        self._covered: set[str] = set()
        self._needless: set[str] = set()
        self._damaged: set[str] = set()
        self.packs: Mapping[str, Entry] = {}
        self.generation = 0

    # ---- looking up -------------------------------------------------------------------

    def find(self, digest: bytes) -> list[Location]:
        """Every copy of an image, the newest pack's first."""
        if not self._runs:
            return []
        key = np.array(digest, SHA256)
        packs = self.packs  # which another thread may replace meanwhile
        found = []
        for run in self._runs:
            keys = run.contents.sha256
            at = int(keys.searchsorted(key))
            while at < len(keys) and keys[at] == key:
                name = run.names[run.pack[at]]
                if name in packs:
                    start, length = run.contents.start[at], run.contents.length[at]
                    found.append(Location(name, int(start), int(length)))
                at += 1
        if len(found) > 1:
            found.sort(key=lambda place: (-packs[place.pack].modified, place))
        return found

    def filter_known(self, digests: Sequence[bytes]) -> list[bytes]:
        """Which of some images it lists, in packs that are perhaps gone."""
        if not self._runs or not digests:
            return []
        keys = np.array(digests, SHA256)
        listed = np.zeros(len(keys), bool)
        for run in self._runs:
            known = run.contents.sha256
            at = np.minimum(known.searchsorted(keys), len(known) - 1)
            listed |= known[at] == keys
        return [digests[at] for at in np.flatnonzero(listed).tolist()]

    def contains(self, digests: np.ndarray) -> np.ndarray:
        """Which of these digests (S32) are in a pack that is in place."""
        held = np.zeros(len(digests), bool)
        for run in self._runs:
            keys = run.contents.sha256
            present = np.array([name in self.packs for name in run.names], bool)
            at = np.minimum(keys.searchsorted(digests), len(keys) - 1)
            # Copies in several packs of one run stand side by side.
            for step in range(max(len(run.names), 1)):
                here = np.minimum(at + step, len(keys) - 1)
                same = keys[here] == digests
                held |= same & present[run.pack[here]]
                if not (same & ~held).any():
                    break
        return held

    # ---- keeping up -------------------------------------------------------------------

    def refresh(self, seen: int | None = None) -> None:
        """Look which packs are in place now.

        With `seen`, a `generation`, nothing is done when another thread has looked since.
        """
        with self._lock:
            if seen is not None and seen != self.generation:
                return
            for _ in range(_TRIES):
                self.packs = {entry.name: entry for entry in list_packs(self._files)}
                if self.packs.keys() - self._covered:
                    self._open_index_files()
                if self._read_loose():
                    break
            self.generation += 1

    def add(self, name: str, size: int, modified: float, contents: PackEntries) -> None:
        """Take in a pack that has just been put in place."""
        with self._lock:
            self.packs = {**self.packs, name: Entry(name, size, modified, is_folder=False)}
            self._take_in([(name, contents)])

    def _open_index_files(self) -> None:
        listed = sorted(self._files.entries(INDEXES), key=lambda entry: -entry.size)
        runs = self._without_merged({entry.name for entry in listed})
        known = {run.file for run in runs}
        for entry in listed:
            if entry.name in known | self._needless | self._damaged:
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
                self._needless.add(entry.name)
        self._runs = tuple(runs)

    def _without_merged(self, listed: Set[str]) -> list[_Run]:
        """The runs without those of index files that another writer has merged into larger ones."""
        kept = [run for run in self._runs if run.file is None or run.file in listed]
        if len(kept) < len(self._runs):
            self._covered -= _names(self._runs) - _names(kept)
            self._needless.clear()
        return kept

    def _read_loose(self) -> bool:
        """Read the indexes of packs that no run covers; whether all of them were still there."""
        loose = [
            entry
            for name, entry in self.packs.items()
            if name not in self._covered and name not in self._damaged
        ]
        gone = 0
        read: list[tuple[str, PackEntries]] = []
        with ThreadPoolExecutor(_READERS) if len(loose) > 1 else contextlib.nullcontext() as pool:
            results = pool.map(self._read_pack, loose) if pool else map(self._read_pack, loose)
            for entry, contents in zip(loose, results, strict=True):
                if isinstance(contents, PackEntries):
                    read.append((entry.name, contents))
                elif contents is None:
                    gone += 1
                else:
                    _log.warning("%s", contents)
                    self._damaged.add(entry.name)
        self._take_in(read)
        return not gone

    def _read_pack(self, pack: Entry) -> PackEntries | CorruptFileError | None:
        try:
            return read_pack_entries(self._files, pack)
        except FileNotFoundError:
            return None
        except CorruptFileError as error:
            return error

    def _take_in(self, packs: Sequence[tuple[str, PackEntries]]) -> None:
        """Merge the indexes of packs into the runs in memory, of which there are few."""
        self._covered.update(name for name, _ in packs)
        taken = [_run_of(name, contents) for name, contents in packs if len(contents)]
        if not taken:
            return
        kept = [run for run in self._runs if run.file is not None]
        for run in sorted((run for run in self._runs if run.file is None), key=len):
            if len(run) <= 2 * sum(map(len, taken)):
                taken.append(run)
            else:
                kept.append(run)
        self._runs = (*kept, _merged_in_memory(taken))

    # ---- index files ------------------------------------------------------------------

    def compact(self, *, at_least: int = LOOSE_PACKS) -> None:
        """Write an index file for the packs that have none, once they are so many."""
        with self._lock:
            loose = [run for run in self._runs if run.file is None]
            here = _names(loose) & self.packs.keys()
            if len(here) < at_least:
                return
            merged = loose
            kept = []
            for run in sorted((run for run in self._runs if run.file is not None), key=len):
                if len(run) <= 2 * sum(map(len, merged)):
                    merged = [*merged, run]
                else:
                    kept.append(run)
            name = _write_run(self._files, merged, self.packs.keys())
            entry = self._files.stat(f"{INDEXES}/{name}")
            # Another writer may have merged it into a larger one already, or the disk damaged it.
            with contextlib.suppress(FileNotFoundError, CorruptFileError):
                if entry is not None:
                    self._runs = (*kept, _read_run(self._files, entry))
                    for run in merged:
                        if run.file is not None:
                            self._files.delete(f"{INDEXES}/{run.file}")

    def obsolete_files(self) -> list[Entry]:
        """Index files of packs that are gone, or that others cover as well."""
        used = {run.file for run in self._runs if self.packs.keys() & set(run.names)}
        return [entry for entry in self._files.entries(INDEXES) if entry.name not in used]


def _names(runs: Iterable[_Run]) -> set[str]:
    return {name for run in runs for name in run.names}


def _run_of(name: str, contents: PackEntries) -> _Run:
    return _Run(contents, np.zeros(len(contents), np.uint32), [name])


def _merged_in_memory(runs: Sequence[_Run]) -> _Run:
    if len(runs) == 1:
        return runs[0]
    merge = _Merge(runs, _names(runs), _SLICE_IN_MEMORY)
    sha256, start, length, pack = (_joined(merge.column(number), len(merge)) for number in range(4))
    return _Run(PackEntries(sha256, start, length), pack, merge.names)


def _joined(pieces: Iterator[np.ndarray], count: int) -> np.ndarray:
    """Pieces of a column as one, without a second copy of them all."""
    first = next(pieces)
    column = np.empty(count, first.dtype)
    at = 0
    for piece in chain([first], pieces):
        column[at : at + len(piece)] = piece
        at += len(piece)
    return column


class _Merge:
    """Several runs as one, of the packs that are `present`, in pieces of about `size` images."""

    def __init__(self, runs: Sequence[_Run], present: Iterable[str], size: int = _SLICE) -> None:
        self._runs = runs
        here = set(present)
        self.names = sorted(_names(runs) & here)
        numbers = {name: number for number, name in enumerate(self.names)}
        self._numbers = [
            np.array([numbers.get(name, -1) for name in run.names], np.int64) for run in runs
        ]
        slices = min(len(self) // size + 1, 2**16)
        edges = [number * 2**16 // slices for number in range(1, slices)]
        keys = np.array([edge.to_bytes(2, "big") for edge in edges], SHA256)
        self._bounds = [
            [0, *run.contents.sha256.searchsorted(keys).tolist(), len(run)] for run in runs
        ]

    def __len__(self) -> int:
        """Images of all runs, of packs that are present and others."""
        return sum(map(len, self._runs))

    def column(self, number: int) -> Iterator[np.ndarray]:
        """A column of the merged run: sha256, start, length or pack."""
        for piece in range(len(self._bounds[0]) - 1):
            keys, wanted = [], []
            for run, numbers, bounds in zip(self._runs, self._numbers, self._bounds, strict=True):
                part = slice(bounds[piece], bounds[piece + 1])
                pack = numbers[run.pack[part]]
                contents = run.contents
                columns = (contents.sha256, contents.start, contents.length)
                value = columns[number][part] if number < 3 else pack.astype(np.uint32)
                keys.append(contents.sha256[part][pack >= 0])
                wanted.append(value[pack >= 0])
            yield np.concatenate(wanted)[np.argsort(np.concatenate(keys), kind="stable")]


def _write_run(files: Files, runs: Sequence[_Run], present: Iterable[str]) -> str:
    """Merge runs into an index file, and return its name."""
    merge = _Merge(runs, present)
    name = uuid.uuid4().hex
    staged = files.create_staged(f"{INDEXES}/{name}")
    try:
        count = 0
        for number in range(4):
            for piece in merge.column(number):
                staged.append([piece.tobytes()])
                count += len(piece) if number == 0 else 0
        sizes = [count.to_bytes(8, "little"), len(merge.names).to_bytes(8, "little")]
        staged.append([*(pack.encode() for pack in merge.names), *sizes, _END])
        staged.finish()
    finally:
        staged.close()
    return name


def _read_run(files: Files, entry: Entry) -> _Run:
    """Open an index file; FileNotFoundError when it is gone, CorruptFileError when it is none."""
    path = f"{INDEXES}/{entry.name}"
    trailer = files.read_range(path, max(entry.size - _TRAILER, 0), _TRAILER)
    count = int.from_bytes(trailer[:8], "little")
    packs = int.from_bytes(trailer[8:16], "little")
    if (
        not count
        or trailer[16:] != _END
        or count * _PER_IMAGE + 32 * packs + _TRAILER != entry.size
    ):
        raise CorruptFileError(f"{files.url}/{path} is no index file")
    names_at = count * _PER_IMAGE
    names = files.read_range(path, names_at, 32 * packs)
    columns = _mapped(files, path, names_at)
    pack = np.frombuffer(columns, "<u4", count, 44 * count)
    # Other damage is found out with an image's bytes, which do not match their name then.
    if not _HEX.fullmatch(names) or pack.max() >= packs:
        raise CorruptFileError(f"{files.url}/{path} is damaged")
    return _Run(
        entries_from_bytes(columns, count),
        pack,
        [names[at : at + 32].decode() for at in range(0, len(names), 32)],
        entry.name,
    )


def _mapped(files: Files, path: str, size: int) -> np.ndarray:
    """The beginning of a file as bytes, mapped from this disk or from a copy on this disk."""
    local = files.local_path(path)
    with open(local, "rb") if local is not None else tempfile.TemporaryFile() as file:
        if local is None:
            for at in range(0, size, _COPIED_AT_ONCE):
                file.write(files.read_range(path, at, min(_COPIED_AT_ONCE, size - at)))
            file.flush()
        return np.memmap(file, np.uint8, "r", shape=(size,))
