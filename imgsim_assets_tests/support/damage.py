"""Damage to stored files, as disks and careless hands do it."""

from __future__ import annotations

from pathlib import Path

from imgsim_assets.storage.blobs import blob_path
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import DataFile, Table


def flip_a_bit(store: Store, table: Table, file: DataFile) -> Path:
    """Change one bit in the middle of a table's file; the size stays. Returns its path."""
    return flip_a_bit_of(Path(store.url) / table.name / file.path)


def flip_a_bit_of_blob(store: Store, sha256: str) -> Path:
    """Change one bit in the middle of an image's bytes. Returns its path."""
    return flip_a_bit_of(Path(store.url) / blob_path(sha256))


def flip_a_bit_of(path: Path) -> Path:
    """Change one bit in the middle of a file. Returns its path."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path
