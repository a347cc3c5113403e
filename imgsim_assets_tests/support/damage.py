"""Damage to stored files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.encoders.table import latest_embeddings
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import DataFile
from imgsim_assets.storage.pack_index import Location, PackIndex
from imgsim_assets.storage.packs import PACKS, list_packs, read_pack_entries
from imgsim_assets.storage.sorted_runs import INDEXES
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support import tables

Damage = Callable[[bytes], bytes | None]
DAMAGES: dict[str, Damage] = {
    "emptied": lambda _: b"",
    "one byte left": lambda data: data[:1],
    "cut in half": lambda data: data[: len(data) // 2],
    "last byte missing": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "first byte flipped": lambda data: _flipped(data, 0),
    "middle byte flipped": lambda data: _flipped(data, len(data) // 2),
    "last byte flipped": lambda data: _flipped(data, len(data) - 1),
    "deleted": lambda _: None,
}


def damage_file(path: Path, damage: Damage) -> None:
    """Replace the bytes of a file by what a damage leaves of them; None deletes the file."""
    damaged = damage(path.read_bytes())
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def flip_bit(store: Store, table: Table, file: DataFile) -> Path:
    """Change one bit in the middle of a table's file; the size stays the same. Returns its path."""
    return flip_bit_in_file(Path(store.url) / table.name / file.path)


def flip_bit_in_blob(store: Store, sha256: str) -> Path:
    """Change one bit in the middle of an image's bytes. Returns the path of its pack."""
    location = locate_blob(store, sha256)
    path = pack_path(store, location.pack)
    data = bytearray(path.read_bytes())
    data[location.start + location.length // 2] ^= 1
    path.write_bytes(data)
    return path


def recompute_with_rounding_difference(store: Store, table: VectorTable) -> None:
    """Replace a table's vectors by those of another processor, which rounds differently."""
    before = table.read(table.keys())
    flip_bit(store, table.table, tables.latest_commit(table.table).files_with_role()[0])
    with pytest.raises(StoreError):
        table.read(before.sha256)
    table.append(replace(before, vectors=np.nextafter(before.vectors, np.float32(2))))


def vectors_of(store: Store, name: str) -> VectorTable:
    """The vectors of a catalog's newest embeddings."""
    return VectorTable(store, name, latest_embeddings(store, name).properties[FINGERPRINT])


def break_a_vector(store: Store, name: str) -> None:
    """Commit a vector that is not finite in place of one of a catalog's."""
    vectors = vectors_of(store, name)
    first = vectors.read(sorted(vectors.keys())[:1])
    vectors.append(replace(first, vectors=np.full_like(first.vectors, np.nan)))


def remove_blob(store: Store, sha256: str) -> None:
    """Remove an image, if it exists, from the store, and its pack's index with it."""
    others = read_blobs(store)
    if others.pop(sha256, None) is None:
        return
    pack_path(store, locate_blob(store, sha256).pack).unlink()
    for path in (Path(store.url) / INDEXES).glob("*"):
        path.unlink()
    writer = Store.open(store.url)
    for data in others.values():
        writer.blobs.put(data)
    writer.blobs.flush()


def read_blobs(store: Store) -> dict[str, bytes]:
    """Every published image, by the sha256 in its pack's index."""
    images = {}
    for pack in list_packs(store.files):
        entries = read_pack_entries(store.files, pack)
        for row in range(len(entries)):
            start, length = int(entries.start[row]), int(entries.length[row])
            name = entries.sha256[row : row + 1].tobytes().hex()
            images[name] = store.files.read_range(f"{PACKS}/{pack.name}", start, length)
    return images


def locate_blob(store: Store, sha256: str) -> Location:
    """The location of the newest copy of an image."""
    index = PackIndex(store.files)
    index.refresh()
    return index.find(bytes.fromhex(sha256))[0]


def pack_path(store: Store, name: str) -> Path:
    """Path of a pack."""
    return Path(store.url) / PACKS / name


def flip_bit_in_file(path: Path) -> Path:
    """Change one bit in the middle of a file. Returns its path."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path
