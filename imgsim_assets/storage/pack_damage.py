"""Finds damaged packs and index files, and keeps what is intact in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.storage.damage import BytesRead, Damage
from imgsim_assets.storage.files import Entry, Files
from imgsim_assets.storage.pack_index import PackIndex
from imgsim_assets.storage.packs import (
    PACKS,
    PackEntries,
    PackWriter,
    read_pack_entries,
    verify_pack,
)
from imgsim_assets.storage.references import is_intact, is_reference_pack
from imgsim_assets.storage.sorted_runs import INDEXES, verify_index_file
from imgsim_assets.text import counted


def inspect_index_files(files: Files, read: BytesRead) -> Iterator[Damage]:
    """Read every index file, and compare it with its checksum."""
    for entry in files.entries(INDEXES):
        read.bytes += entry.size
        if not verify_index_file(files, entry):
            path = f"{INDEXES}/{entry.name}"
            message = (
                f"{files.url}/{path} is damaged; 'imgsim verify --repair' deletes it, and the "
                "indexes of the packs are read instead"
            )
            yield Damage(path, message, partial(_delete, files, path))


def inspect_pack(files: Files, pack: Entry, read: BytesRead) -> Damage | None:
    """Read every byte of a pack, and compare it with the sha256 of its images and its index."""
    read.bytes += pack.size
    path = f"{PACKS}/{pack.name}"
    try:
        count, damaged = verify_pack(files, pack)
    except CorruptFileError as error:
        return Damage(path, str(error), partial(_rewrite, files, pack))
    read.blobs += 0 if is_reference_pack(pack.name) else count
    if not damaged:
        return None
    message = (
        f"{files.url}/{path}: the bytes of image {damaged[0]}"
        + (f" and {len(damaged) - 1} more" if len(damaged) > 1 else "")
        + " do not match the name; 'imgsim verify --repair' keeps the intact images, and the next "
        "run of the images fetches the others again"
    )
    return Damage(path, message, partial(_rewrite, files, pack))


def _delete(files: Files, path: str) -> str:
    files.delete(path)
    return "deleted it"


def _rewrite(files: Files, pack: Entry) -> str:
    """Copy the intact images of a pack into a new pack, and delete the old one."""
    writer = PackWriter(files, of_references=is_reference_pack(pack.name))
    entries = _known_entries(files, pack)
    with contextlib.closing(writer):
        for digest, start, length in entries:
            data = files.read_range(f"{PACKS}/{pack.name}", start, length)
            if digest not in writer and is_intact(pack.name, digest, data):
                writer.add([digest], [data])
        kept = len(writer)
        if kept:
            writer.finish()
    files.delete(f"{PACKS}/{pack.name}")
    return f"kept {kept} of {counted(len(entries), 'image')} in a new pack"


def _known_entries(files: Files, pack: Entry) -> list[tuple[bytes, int, int]]:
    """Digests and locations in a pack, by its own index or, if damaged, by the index files."""
    try:
        return _rows(read_pack_entries(files, pack))
    except CorruptFileError:
        return PackIndex(files).listed_in(pack.name)


def _rows(entries: PackEntries) -> list[tuple[bytes, int, int]]:
    digests = [entries.sha256[row : row + 1].tobytes() for row in range(len(entries))]
    return list(zip(digests, entries.start.tolist(), entries.length.tolist(), strict=True))
