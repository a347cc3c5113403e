"""Garbage collection of packs: dead ones are deleted, sparse and small ones are rewritten.

A pack younger than the minimum age, or pinned since, is left alone. A rewritten image is
published in a new pack before the old pack is deleted: a reader that finds a pack gone refreshes
its index and finds the copy.
"""

from __future__ import annotations

import contextlib
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
from imgsim_assets.storage.pack_index import Location, PackIndex
from imgsim_assets.storage.packs import (
    PACK_BYTES,
    PACKS,
    SHA256,
    PackWriter,
    list_packs,
    pack_size,
    read_pack_entries,
)
from imgsim_assets.storage.references import Reference, is_intact, is_reference_pack
from imgsim_assets.storage.sorted_runs import INDEXES

# A pack is rewritten when at most this fraction of its bytes is referenced.
_MAX_SPARSE_FRACTION = 0.5
# Packs below this size are merged once there are _MIN_SMALL_PACKS of them.
_SMALL_PACK_BYTES = PACK_BYTES // 4
_MIN_SMALL_PACKS = 8
# Digests that are Python objects at the same time.
_CHUNK_DIGESTS = 2**16


@dataclass
class PackGcReport:
    """Deleted images, other deleted files, and the bytes freed."""

    blobs: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _PackAssessment:
    """An old pack, and which of its images, in the order of its index, must be kept.

    `duplicate` marks images that are referenced but have a copy in a newer pack. The pack's index
    is read again when it is needed, since a store may hold 10^8 images.
    """

    pack: Entry
    live: np.ndarray
    duplicate: np.ndarray
    live_lengths: np.ndarray
    all_bytes: int

    @property
    def live_bytes(self) -> int:
        return int(self.live_lengths.sum())

    @property
    def dead_count(self) -> int:
        return len(self.live) - int(self.live.sum())


def collect_blobs(
    files: Files,
    referenced: pl.Series,
    older_than: float,
    *,
    in_place: pl.Series | None = None,
    dry_run: bool,
) -> PackGcReport:
    """Delete images that nothing refers to, from old packs.

    Of several copies of an image the newest intact one is kept.

    Args:
        files: The root of the store.
        referenced: sha256 (hex) of the images to keep.
        older_than: Seconds since the epoch; packs modified or pinned later are left alone.
        in_place: sha256 (hex) of the images whose references to keep: they lie elsewhere.
        dry_run: Report what would be deleted, and delete nothing.
    """
    report = PackGcReport()
    in_place = pl.Series(dtype=pl.String) if in_place is None else in_place
    packs = list_packs(files)
    plans = []
    for of_references, images in ((False, referenced), (True, in_place)):
        of_kind = [pack for pack in packs if is_reference_pack(pack.name) == of_references]
        assessed = _assess_packs(files, of_kind, _digests(images), older_than)
        to_delete, rescued = _rescue_last_copies(files, _select_for_rewrite(assessed))
        plans.append((of_references, to_delete, rescued))
        for assessment in to_delete:
            report.blobs += 0 if of_references else assessment.dead_count
            report.bytes += assessment.pack.size
        report.bytes -= _rewritten_bytes(assessment.live_lengths for assessment in to_delete)
    all_images = pl.concat([referenced, in_place]).unique()
    _collect_other_files(files, all_images, older_than, report, dry_run)
    if not dry_run:
        for of_references, to_delete, rescued in plans:
            _rewrite(files, to_delete, rescued, older_than, of_references=of_references)
    return report


def _digests(sha256: pl.Series) -> np.ndarray:
    """Hex sha256 as sorted, distinct digests (S32)."""
    chunks = [np.zeros(0, SHA256)]
    for chunk in sha256.unique().to_frame().iter_slices(_CHUNK_DIGESTS):
        joined = b"".join(chunk.to_series().str.decode("hex").to_list())
        chunks.append(np.frombuffer(joined, SHA256))
    digests = np.concatenate(chunks)
    digests.sort()
    return digests


def _assess_packs(
    files: Files, packs: Sequence[Entry], referenced: np.ndarray, older_than: float
) -> list[_PackAssessment]:
    """The old packs and which of their images are referenced, newest first."""
    pinned_at = {entry.name: entry.modified for entry in files.entries(PINS)}
    has_copy = np.zeros(len(referenced), bool)
    assessed = []
    for pack in sorted(packs, key=lambda entry: (-entry.modified, entry.name)):
        try:
            entries = read_pack_entries(files, pack)
        except (FileNotFoundError, CorruptFileError):  # deleted, or for an operator to look at
            continue
        live = duplicate = np.zeros(len(entries), bool)
        if len(referenced) and len(entries):
            rows = np.minimum(referenced.searchsorted(entries.sha256), len(referenced) - 1)
            is_referenced = referenced[rows] == entries.sha256
            duplicate = is_referenced & has_copy[rows]
            live = is_referenced & ~duplicate
            has_copy[rows[live]] = True
        if max(pack.modified, pinned_at.get(pack.name, 0.0)) < older_than:
            lengths = entries.length
            assessed.append(
                _PackAssessment(pack, live, duplicate, lengths[live], int(lengths.sum()))
            )
    return assessed


def _select_for_rewrite(assessed: Sequence[_PackAssessment]) -> list[_PackAssessment]:
    """Sparse packs, and small ones when there are many."""
    sparse, small = [], []
    for assessment in assessed:
        max_bytes = _MAX_SPARSE_FRACTION * assessment.all_bytes
        if assessment.dead_count and assessment.live_bytes <= max_bytes:
            sparse.append(assessment)
        elif assessment.pack.size < _SMALL_PACK_BYTES:
            small.append(assessment)
    return [*sparse, *(small if len(small) >= _MIN_SMALL_PACKS else ())]


def _rescue_last_copies(
    files: Files, to_delete: Sequence[_PackAssessment]
) -> tuple[list[_PackAssessment], set[bytes]]:
    """The packs, newest first, with duplicates kept that have no intact newer copy.

    Also returns the digests of those duplicates. Only duplicates and their copies are read.
    """
    index = PackIndex(files)
    if any(assessment.duplicate.any() for assessment in to_delete):
        index.refresh()
    rescued: set[bytes] = set()
    result = []
    for assessment in sorted(to_delete, key=lambda each: (-each.pack.modified, each.pack.name)):
        live, lengths = assessment.live.copy(), assessment.live_lengths
        for row, digest, location in _locations(files, assessment.pack, assessment.duplicate):
            newer = itertools.takewhile(partial(ne, location), _copies(index, digest, location))
            if (
                digest not in rescued
                and not any(_is_intact(files, digest, copy) for copy in newer)
                and _is_intact(files, digest, location)
            ):
                rescued.add(digest)
                live[row] = True
                lengths = np.append(lengths, np.uint32(location.length))
        result.append(replace(assessment, live=live, live_lengths=lengths))
    return result, rescued


def _copies(index: PackIndex, digest: bytes, location: Location) -> list[Location]:
    """The copies of an image, or the references to it, as the one at a location is."""
    kind = is_reference_pack(location.pack)
    return [copy for copy in index.find(digest) if is_reference_pack(copy.pack) == kind]


def _rewritten_bytes(lengths_by_pack: Iterable[np.ndarray]) -> int:
    """Bytes of the packs to which images of these lengths are written."""
    empty = pack_size(np.zeros(0, np.uint32))
    written, size = 0, PACK_BYTES
    for lengths in lengths_by_pack:
        written += pack_size(lengths) - empty
        for length in lengths.tolist():
            if size >= PACK_BYTES:
                written += empty
                size = empty - 16  # a pack that is being written has no trailer yet
            size += length
    return written


def _rewrite(
    files: Files,
    to_delete: Sequence[_PackAssessment],
    rescued: Set[bytes],
    older_than: float,
    *,
    of_references: bool,
) -> None:
    """Copy the live images of packs, and delete each pack once its copies are published."""
    blobs = Blobs(files)
    writer: PackWriter | None = None
    copied: list[Entry] = []
    for assessment in to_delete:
        for _, digest, location in _locations(files, assessment.pack, assessment.live):
            data = _read_to_copy(files, blobs, digest, location, rescued)
            if data is None:
                continue
            if writer is None:
                writer = PackWriter(files, of_references=of_references)
            writer.add([digest], [data])
            if writer.is_full:
                with contextlib.closing(writer):
                    writer.finish()
                writer = None
                _delete_packs(files, copied, older_than)
                copied = []
        copied.append(assessment.pack)
    if writer is not None:
        with contextlib.closing(writer):
            writer.finish()
    _delete_packs(files, copied, older_than)


def _locations(
    files: Files, pack: Entry, selected: np.ndarray
) -> Iterable[tuple[int, bytes, Location]]:
    """Selected images of a pack by offset: row in its index, digest, location."""
    if not selected.any():
        return
    try:
        entries = read_pack_entries(files, pack)
    except FileNotFoundError:  # another garbage collection was faster
        return
    rows = np.flatnonzero(selected)
    for row in rows[np.argsort(entries.start[rows])].tolist():
        digest = entries.sha256[row : row + 1].tobytes()
        yield row, digest, Location(pack.name, int(entries.start[row]), int(entries.length[row]))


def _is_intact(files: Files, digest: bytes, location: Location) -> bool:
    try:
        data = read_blob(files, location)
    except FileNotFoundError:  # another garbage collection was faster
        return False
    if is_reference_pack(location.pack):
        reference = Reference.from_bytes(digest, data)
        return reference is not None and reference.is_current()
    return is_intact(location.pack, digest, data)


def _read_to_copy(
    files: Files, blobs: Blobs, digest: bytes, location: Location, rescued: Set[bytes]
) -> bytes | None:
    """An image's bytes, from another pack if need be; None when there is nothing to copy.

    An image without an intact copy is reported missing.
    """
    try:
        data = read_blob(files, location)
    except FileNotFoundError:  # another garbage collection was faster
        return None
    if is_intact(location.pack, digest, data):
        return data
    if digest in rescued:  # an older copy is kept instead
        return None
    try:
        found = blobs.get(digest.hex())
        return None if is_reference_pack(location.pack) else found
    except CorruptFileError:
        blobs.report_missing(digest.hex())
        return None


def _delete_packs(files: Files, packs: Sequence[Entry], older_than: float) -> None:
    for pack in packs:
        # The name is unique, so that no other garbage collection removes it too early.
        marker = f"{PENDING_DELETE}/{pack.name}.{uuid.uuid4().hex}"
        files.write(marker, b"")
        # A writer may have pinned the pack since it was assessed. A writer that comes later sees
        # the marker and stores the image again.
        pin = files.stat(f"{PINS}/{pack.name}")
        if pin is None or pin.modified < older_than:
            files.delete(f"{PACKS}/{pack.name}")
        files.delete(marker)


def _collect_other_files(
    files: Files, referenced: pl.Series, older_than: float, report: PackGcReport, dry_run: bool
) -> None:
    """Delete old files beside the packs that are of no use any more."""
    index = PackIndex(files)
    index.refresh()
    unused: Mapping[str, Callable[[], Iterable[Entry]]] = {
        PACKS: lambda: files.temporary_entries(PACKS),
        INDEXES: lambda: [*files.temporary_entries(INDEXES), *index.obsolete_files()],
        PINS: lambda: files.entries(PINS),
        PENDING_DELETE: lambda: files.entries(PENDING_DELETE),
        MISSING: lambda: _unreferenced(files.entries(MISSING), referenced),
    }
    for folder, list_entries in unused.items():
        for entry in list_entries():
            if entry.modified < older_than:
                report.files += 1
                report.bytes += entry.size
                if not dry_run:
                    files.delete(f"{folder}/{entry.name}")


def _unreferenced(missing: Sequence[Entry], referenced: pl.Series) -> list[Entry]:
    names = pl.Series([entry.name for entry in missing], dtype=pl.String)
    is_referenced = names.is_in(referenced.implode())
    return [entry for entry, keep in zip(missing, is_referenced, strict=True) if not keep]
