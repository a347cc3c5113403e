"""Garbage collection of packs: dead ones go, mostly dead and many small ones are rewritten.

A pack is left alone while it is younger than the grace period, or marked as used within it.
What is rewritten is in place, in a new pack, before the old one goes: a reader that finds a pack
gone looks again and finds the copy.
"""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from operator import ne

import numpy as np
import polars as pl

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.blobs import MISSING, PENDING_DELETE, PINS, Blobs, read_blob
from imgsim_assets.storage.files import Entry, Files
from imgsim_assets.storage.pack_index import INDEXES, Location, PackIndex
from imgsim_assets.storage.packs import (
    PACK_BYTES,
    PACKS,
    SHA256,
    PackWriter,
    list_packs,
    pack_size,
    read_pack_entries,
)

# A pack is rewritten when at most this share of its bytes is alive.
_SPARSE = 0.5
# Packs below this size are merged once there are so many of them.
_SMALL_BYTES = PACK_BYTES // 4
_SMALL_PACKS = 8
# Names of images that are Python objects at a time.
_DIGESTS_AT_ONCE = 2**16


@dataclass
class CollectedBlobs:
    """Images that were deleted, other files that were, and the bytes that became free."""

    blobs: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Judged:
    """An old pack, and which of its images, in the order of its index, have to stay.

    `spare` are those that are needed, but of which a newer pack has a copy too. The pack's index
    is not kept, but read again when it is needed: there may be 10^8 images.
    """

    pack: Entry
    alive: np.ndarray
    spare: np.ndarray
    alive_lengths: np.ndarray
    all_bytes: int

    @property
    def alive_bytes(self) -> int:
        return int(self.alive_lengths.sum())

    @property
    def dead(self) -> int:
        return len(self.alive) - int(self.alive.sum())


def collect_blobs(
    files: Files, living: pl.Series, before: float, *, dry_run: bool
) -> CollectedBlobs:
    """Delete images that are not among `living` (sha256 as hex) from packs older than `before`.

    Of several copies of an image the newest one stays that is intact.
    """
    collected = CollectedBlobs()
    digests = _digests(living)
    doomed, saved = _with_last_copies(files, _to_rewrite(_judged(files, digests, before)))
    for one in doomed:
        collected.blobs += one.dead
        collected.bytes += one.pack.size
    collected.bytes -= _rewritten_bytes(one.alive_lengths for one in doomed)
    _collect_beside(files, living, before, collected, dry_run)
    if not dry_run:
        _rewrite(files, doomed, saved, before)
    return collected


def _digests(living: pl.Series) -> np.ndarray:
    """Hex sha256 as sorted digests (S32)."""
    pieces = [np.zeros(0, SHA256)]
    for piece in living.unique().to_frame().iter_slices(_DIGESTS_AT_ONCE):
        joined = b"".join(piece.to_series().str.decode("hex").to_list())
        pieces.append(np.frombuffer(joined, SHA256))
    digests = np.concatenate(pieces)
    digests.sort()
    return digests


def _judged(files: Files, living: np.ndarray, before: float) -> list[_Judged]:
    """The packs that are old, and what of them is needed; newest first."""
    packs = list_packs(files)
    marks = {entry.name: entry.modified for entry in files.entries(PINS)}
    claimed = np.zeros(len(living), bool)
    judged = []
    for pack in sorted(packs, key=lambda entry: (-entry.modified, entry.name)):
        try:
            contents = read_pack_entries(files, pack)
        except (FileNotFoundError, CorruptFileError):  # gone, or for a person to look at
            continue
        alive = spare = np.zeros(len(contents), bool)
        if len(living) and len(contents):
            at = np.minimum(living.searchsorted(contents.sha256), len(living) - 1)
            needed = living[at] == contents.sha256
            spare = needed & claimed[at]
            alive = needed & ~spare
            claimed[at[alive]] = True
        if max(pack.modified, marks.get(pack.name, 0.0)) < before:
            lengths = contents.length
            judged.append(_Judged(pack, alive, spare, lengths[alive], int(lengths.sum())))
    return judged


def _to_rewrite(judged: Sequence[_Judged]) -> list[_Judged]:
    wasteful, small = [], []
    for one in judged:
        if one.dead and one.alive_bytes <= _SPARSE * one.all_bytes:
            wasteful.append(one)
        elif one.pack.size < _SMALL_BYTES:
            small.append(one)
    return [*wasteful, *(small if len(small) >= _SMALL_PACKS else ())]


def _with_last_copies(files: Files, doomed: Sequence[_Judged]) -> tuple[list[_Judged], set[bytes]]:
    """The packs, keeping spare copies of which no newer one is intact, and what these are of.

    Only images of which a copy is about to go are read.
    """
    index = PackIndex(files)
    if any(one.spare.any() for one in doomed):
        index.refresh()
    saved: set[bytes] = set()
    kept = []
    for one in sorted(doomed, key=lambda one: (-one.pack.modified, one.pack.name)):
        alive, lengths = one.alive.copy(), one.alive_lengths
        for at, digest, place in _places(files, one.pack, one.spare):
            newer = itertools.takewhile(partial(ne, place), index.find(digest))
            if (
                digest not in saved
                and not any(_is_intact(files, digest, copy) for copy in newer)
                and _is_intact(files, digest, place)
            ):
                saved.add(digest)
                alive[at] = True
                lengths = np.append(lengths, np.uint32(place.length))
        kept.append(replace(one, alive=alive, alive_lengths=lengths))
    return kept, saved


def _rewritten_bytes(lengths: Iterable[np.ndarray]) -> int:
    """Bytes of the packs to which images of these lengths are written."""
    empty = pack_size(np.zeros(0, np.uint32))
    written, size = 0, PACK_BYTES
    for some in lengths:
        written += pack_size(some) - empty
        for length in some.tolist():
            if size >= PACK_BYTES:
                written += empty
                size = empty - 16  # its end comes last
            size += length
    return written


def _rewrite(files: Files, doomed: Sequence[_Judged], saved: Set[bytes], before: float) -> None:
    """Copy what is needed of packs, and delete each once its images are in place elsewhere."""
    blobs = Blobs(files)
    writer: PackWriter | None = None
    copied: list[_Judged] = []
    for one in doomed:
        for _, digest, place in _places(files, one.pack, one.alive):
            data = _kept(files, blobs, digest, place, saved)
            if data is None:
                continue
            if writer is None:
                writer = PackWriter(files)
            writer.add([digest], [data])
            if writer.is_full:
                _finish(writer)
                writer = None
                _delete(files, copied, before)
                copied = []
        copied.append(one)
    if writer is not None:
        _finish(writer)
    _delete(files, copied, before)


def _finish(writer: PackWriter) -> None:
    try:
        writer.finish()
    finally:
        writer.close()


def _places(files: Files, pack: Entry, chosen: np.ndarray) -> Iterable[tuple[int, bytes, Location]]:
    """Chosen images of a pack in the order of its bytes: where in its index, sha256, place."""
    if not chosen.any():
        return
    try:
        contents = read_pack_entries(files, pack)
    except FileNotFoundError:  # another collection was faster
        return
    kept = np.flatnonzero(chosen)
    for at in kept[np.argsort(contents.start[kept])].tolist():
        digest = contents.sha256[at : at + 1].tobytes()
        yield at, digest, Location(pack.name, int(contents.start[at]), int(contents.length[at]))


def _is_intact(files: Files, digest: bytes, place: Location) -> bool:
    """Whether an image is there and matches its name."""
    try:
        return hashlib.sha256(read_blob(files, place)).digest() == digest
    except FileNotFoundError:  # another collection was faster
        return False


def _kept(
    files: Files, blobs: Blobs, digest: bytes, place: Location, saved: Set[bytes]
) -> bytes | None:
    """An image's bytes, from another pack if need be; None when they are not to be copied.

    One that is damaged wherever it lies has to be fetched again.
    """
    try:
        data = read_blob(files, place)
    except FileNotFoundError:  # another collection was faster
        return None
    if hashlib.sha256(data).digest() == digest:
        return data
    if digest in saved:  # an older copy is kept in place of this one
        return None
    try:
        return blobs.get(digest.hex())
    except CorruptFileError:
        blobs.report_missing(digest.hex())
        return None


def _delete(files: Files, packs: Sequence[_Judged], before: float) -> None:
    for one in packs:
        # A name of this collection's own, which no other one takes away too early.
        doomed = f"{PENDING_DELETE}/{one.pack.name}.{uuid.uuid4().hex}"
        files.write(doomed, b"")
        # Somebody may have come upon one of its images since they were judged; who does so
        # from now on stores the image anew.
        mark = files.stat(f"{PINS}/{one.pack.name}")
        if mark is None or mark.modified < before:
            files.delete(f"{PACKS}/{one.pack.name}")
        files.delete(doomed)


def _collect_beside(
    files: Files, living: pl.Series, before: float, collected: CollectedBlobs, dry_run: bool
) -> None:
    """What lies beside the packs and is of no use any more."""
    index = PackIndex(files)
    index.refresh()
    needless: Mapping[str, Callable[[], Iterable[Entry]]] = {
        PACKS: lambda: files.temporary_entries(PACKS),
        INDEXES: lambda: [*files.temporary_entries(INDEXES), *index.obsolete_files()],
        PINS: lambda: files.entries(PINS),
        PENDING_DELETE: lambda: files.entries(PENDING_DELETE),
        MISSING: lambda: _not_needed(files.entries(MISSING), living),
    }
    for folder, listed in needless.items():
        for entry in listed():
            if entry.modified < before:
                collected.files += 1
                collected.bytes += entry.size
                if not dry_run:
                    files.delete(f"{folder}/{entry.name}")


def _not_needed(lost: Sequence[Entry], living: pl.Series) -> list[Entry]:
    names = pl.Series([entry.name for entry in lost], dtype=pl.String)
    is_needed = names.is_in(living.implode())
    return [entry for entry, needed in zip(lost, is_needed, strict=True) if not needed]
