"""Vectors that other catalogs of a store have of the same images by the same encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from imgsim_assets.encoders.vector_files import VectorFile, frames_with, vector_files
from imgsim_assets.encoders.vector_rows import VectorRows, concat_rows, rows_of
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.storage.gc import SHA256
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# Vectors that are copied from another catalog in one append.
_MAX_COPIED_BYTES = 32 * 2**20


def copy_from_other_catalogs(
    store: Store, vectors: VectorTable, missing: set[str], *, accepted_flags: Iterable[str] = ()
) -> int:
    """Copy and commit vectors of missing images from catalogs with the same fingerprint.

    Holds the vectors of some files at a time.

    Args:
        store: holds the catalogs.
        vectors: receives the vectors.
        missing: sha256 of images; those that were found are removed from the set.
        accepted_flags: those of `vector_files.FLAGS` that the images may have.

    Returns:
        The number of vectors that were copied.
    """
    before = len(missing)
    accepted = set(accepted_flags)
    suffix = f"/vectors/{vectors.fingerprint}"
    for name in store.table_names():
        if missing and name.endswith(suffix) and name != vectors.table.name:
            _copy_from(store.table(name, key=SHA256), vectors, missing, accepted)
    return before - len(missing)


def _copy_from(
    other: Table, vectors: VectorTable, missing: set[str], accepted_flags: set[str]
) -> None:
    commit = other.latest()
    by_flags: dict[frozenset[str], list[VectorFile]] = {}
    for file in vector_files(commit) if commit is not None else ():
        if file.flags <= accepted_flags:
            by_flags.setdefault(file.flags, []).append(file)
    for flags, files in by_flags.items():
        _copy_files(other, files, vectors, missing, flags)


def _copy_files(
    other: Table,
    files: Sequence[VectorFile],
    vectors: VectorTable,
    missing: set[str],
    flags: frozenset[str],
) -> None:
    copied: list[VectorRows] = []
    for rows in frames_with(other, files, missing, skip_damaged=True):
        copied.append(rows_of(rows))
        if sum(part.vectors.nbytes for part in copied) >= _MAX_COPIED_BYTES:
            vectors.append(concat_rows(copied), flags=flags)
            copied.clear()
    vectors.append(concat_rows(copied), flags=flags)
