"""Garbage collection: what may be deleted from a store, by declared rules.

A commit is kept while it is among the newest few of its table or younger than the grace
period. A file is deleted when no kept commit names it and it is older than the grace
period, which must be longer than any run: that alone makes collection safe beside writers.
An image or a vector is kept while a kept commit of any table refers to its sha256; how images
go that are not is said in `pack_gc`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.pack_gc import collect_blobs
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import COMMITS, DATA, Table

SHA256 = "sha256"
# A table with this property holds one row per distinct image, worth keeping only while
# some catalog still has the image.
PER_IMAGE = "per_image"
# A table with this property lists a catalog's images: its rows keep blobs alive.
REFERS_TO_BLOBS = "refers_to_blobs"


@dataclass
class GcReport:
    """What a collection deleted (or, as a dry run, would delete)."""

    commits: int = 0
    files: int = 0
    blobs: int = 0
    vectors: int = 0
    bytes: int = 0
    tables: list[str] = field(default_factory=list)


def collect_garbage(
    store: Store, rules: RetentionPolicy, *, now: float | None = None, dry_run: bool = False
) -> GcReport:
    """Delete what the rules do not keep, and say how much that was.

    Raises StoreError, and deletes nothing, when a catalog that has images reads empty: an
    unreadable or emptied ledger must never be taken as permission to delete its images.
    """
    before = (time.time() if now is None else now) - rules.min_age_hours * 3600
    histories = {name: _history(store.table(name), rules, before) for name in store.table_names()}
    collected = GcReport(tables=list(histories))
    living = _living_images(store, histories)
    for name, history in histories.items():
        for version in history.dropped:
            collected.commits += 1
            if not dry_run:
                store.files.delete(f"{name}/{COMMITS}/{version:012d}.json")
    for folder in store.table_folders():
        _collect_files(store, folder, histories.get(folder), before, collected, dry_run)
    for name, history in histories.items():
        if history.kept[-1].properties.get(PER_IMAGE):
            _collect_vectors(store, name, living, before, collected, dry_run)
    gone = collect_blobs(store.files, living, before, dry_run=dry_run)
    collected.blobs += gone.blobs
    collected.files += gone.files
    collected.bytes += gone.bytes
    return collected


@dataclass(frozen=True)
class _History:
    """A table's commits when the collection began: those it keeps, and versions to drop.

    What is committed meanwhile is in neither, and is not touched.
    """

    kept: list[Commit]
    dropped: list[int]


def _history(table: Table, rules: RetentionPolicy, before: float) -> _History:
    versions = table.versions()
    newest = set(versions[-rules.retain_last :])
    kept, dropped = [], []
    for version in versions:
        try:
            commit = table.at(version)
        except StoreError:
            if version in newest:
                raise
            continue  # another collection has dropped it
        if version in newest or _committed_at(commit) >= before:
            kept.append(commit)
        else:
            dropped.append(version)
    return _History(kept, dropped)


def _committed_at(commit: Commit) -> float:
    return datetime.fromisoformat(commit.committed_at).timestamp()


def _living_images(store: Store, histories: Mapping[str, _History]) -> pl.Series:
    """The sha256 of every image that a kept commit refers to, each once, sorted."""
    living = pl.Series(SHA256, dtype=pl.String)
    for name, history in histories.items():
        newest = history.kept[-1]
        if not newest.properties.get(REFERS_TO_BLOBS):
            continue
        if newest.rows == 0:
            raise StoreError(
                f"table {name} reads empty, so its images would all be deleted; nothing was "
                f"collected. If the catalog really ended, delete {store.url}/{name}"
            )
        table = store.table(name, key=newest.key)
        for commit in history.kept:
            named = table.read(commit, columns=[SHA256])[SHA256].drop_nulls()
            living = pl.concat([living, named]).unique()
    return living.sort()


def _collect_files(
    store: Store,
    folder: str,
    history: _History | None,
    before: float,
    collected: GcReport,
    dry_run: bool,
) -> None:
    """Old files of a table that no kept commit names, and what interrupted writers left."""
    kept = history.kept if history is not None else []
    named = {file.path.rsplit("/", 1)[-1] for commit in kept for file in commit.files}
    unnamed = [
        *(
            (f"{folder}/{DATA}", entry)
            for entry in store.files.entries(f"{folder}/{DATA}")
            if entry.name not in named
        ),
        *(
            (place, entry)
            for place in (folder, f"{folder}/{COMMITS}", f"{folder}/{DATA}")
            for entry in store.files.temporary_entries(place)
        ),
    ]
    for place, entry in unnamed:
        if entry.modified < before:
            collected.files += 1
            collected.bytes += entry.size
            if not dry_run:
                store.files.delete(f"{place}/{entry.name}")


def _collect_vectors(
    store: Store, name: str, alive: pl.Series, before: float, collected: GcReport, dry_run: bool
) -> None:
    """Rewrite the files of a per-image table without the rows of images that are gone."""
    table = store.table(name, key=SHA256)

    def without_dead(base: Commit | None) -> PendingCommit | None:
        # A run that is at work may be about to refer to what it stored a moment ago.
        if base is None or _committed_at(base) >= before:
            return None
        files = [_without_dead_rows(table, file, alive) for file in base.files]
        if files == list(base.files):
            return None
        return PendingCommit(files, inputs=base.inputs, properties=base.properties)

    newest = table.latest()
    if newest is None:
        return
    if dry_run:
        if _committed_at(newest) < before:
            kept = (_living_rows(table, file, alive) for file in newest.files_with_role())
            collected.vectors += sum(dead for _, dead in kept)
        return
    pruned = table.commit(without_dead)
    collected.vectors += newest.rows - (pruned.rows if pruned else 0)


def _without_dead_rows(table: Table, file: DataFile, alive: pl.Series) -> DataFile:
    living, dead = _living_rows(table, file, alive)
    if not dead:
        return file
    return file.with_content(table.write_rows(living, role=file.role, compression="uncompressed"))


def _living_rows(table: Table, file: DataFile, alive: pl.Series) -> tuple[pl.DataFrame, int]:
    """The rows of images that are not gone, and how many are; a damaged file keeps what it has."""
    try:
        rows = table.read_file(file)
    except CorruptFileError:  # for whoever next reads or adds vectors to mend
        return pl.DataFrame(), 0
    living = rows.filter(pl.col(SHA256).is_in(alive.implode()))
    return living, rows.height - living.height
