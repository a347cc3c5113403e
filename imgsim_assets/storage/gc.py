"""Garbage collection: deletes what a store no longer needs under a declared policy.

A commit is kept while it is among the newest few of its table or younger than the minimum age. A
file is deleted when no kept commit lists it and it is older than the minimum age, which must be
longer than any run: that alone makes garbage collection safe beside writers. An image or a vector
is kept while a kept commit of any table refers to its sha256; `pack_gc` deletes the others.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import polars as pl

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.commit_log import COMMITS, commit_path
from imgsim_assets.storage.files import Entry
from imgsim_assets.storage.gallery_files import unneeded_files
from imgsim_assets.storage.pack_gc import collect_blobs
from imgsim_assets.storage.settings import RetentionPolicy
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets.storage.table_files import DATA

SHA256 = "sha256"
# Column of a table that refers to blobs: where an image lies that the store has no copy of.
LOCATION = "location"
# Property of a table with one row per distinct image, needed only while a catalog has the image.
PER_IMAGE = "per_image"
# Property of such a table: a text that changes whenever rows leave it.
GENERATION = "generation"
# Property of a table whose rows keep blobs alive: true if its column `sha256` names them, else the
# prefix of the values in `url` that do.
REFERS_TO_BLOBS = "refers_to_blobs"
# Folder of robots.txt files, which are of use for some minutes.
ROBOTS_TXT = "_robots"


def new_generation() -> str:
    """Tells a generation of the rows of a per-image table from all others."""
    return uuid.uuid4().hex


@dataclass
class GcReport:
    """Counts of what a garbage collection deleted, or, as a dry run, would delete.

    `blobs` are images, `bytes` the freed space, `tables` the names of all tables of the store.
    `damaged` names the damaged files of superseded versions, which did not stop it.
    """

    commits: int = 0
    files: int = 0
    blobs: int = 0
    vectors: int = 0
    bytes: int = 0
    tables: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def add_damaged(self, name: str, version: int, error: object) -> None:
        """Name a superseded version that cannot be read, once."""
        message = f"{name} version {version}, which is superseded, is damaged: {error}"
        if message not in self.damaged:
            self.damaged.append(message)


def collect_garbage(
    store: Store, policy: RetentionPolicy, *, now: float | None = None, dry_run: bool = False
) -> GcReport:
    """Delete what the policy does not keep.

    Args:
        store: The store.
        policy: What to keep.
        now: Seconds since the epoch that ages are measured from; default: the present.
        dry_run: Report what would be deleted, and delete nothing.

    Raises:
        StoreError: A catalog that had images is empty, or the newest version of a table is
            damaged. Nothing is deleted then: an unreadable or emptied ledger must never count as
            permission to delete its images.
    """
    report = GcReport()
    histories: dict[str, _History] = {}
    older_than = (time.time() if now is None else now) - policy.min_age_hours * 3600
    for name in store.table_names():
        histories[name] = _history(store, name, policy, older_than, report)
    report.tables = list(histories)
    copied, in_place = _referenced_images(store, histories, report)
    referenced = pl.concat([copied, in_place]).unique().sort()
    for name, history in histories.items():
        for version in history.expired:
            report.commits += 1
            if not dry_run:
                store.files.delete(commit_path(name, version))
    for folder in store.table_folders():
        _collect_files(store, folder, histories.get(folder), older_than, report, dry_run)
    kept = {name: history.kept for name, history in histories.items()}
    galleries = list(unneeded_files(store.files, kept, referenced))
    robots = [*store.files.entries(ROBOTS_TXT), *store.files.temporary_entries(ROBOTS_TXT)]
    unneeded = [*galleries, *((ROBOTS_TXT, entry) for entry in robots)]
    _delete_old(store, unneeded, older_than, report, dry_run)
    for name, history in histories.items():
        if history.kept[-1].properties.get(PER_IMAGE):
            _collect_vectors(store, name, referenced, older_than, report, dry_run)
    packs = collect_blobs(store.files, copied, older_than, in_place=in_place, dry_run=dry_run)
    report.blobs += packs.blobs
    report.files += packs.files
    report.bytes += packs.bytes
    return report


@dataclass(frozen=True)
class _History:
    """A table's commits when garbage collection began: those to keep, and versions to delete.

    Later commits are in neither and are not touched.
    """

    kept: list[Commit]
    expired: list[int]


def _history(
    store: Store, name: str, policy: RetentionPolicy, older_than: float, report: GcReport
) -> _History:
    table = store.table(name)
    versions = table.versions()
    newest = set(versions[-policy.retain_last :])
    kept, expired = [], []
    for version in versions:
        try:
            commit = table.at(version)
        except CorruptFileError as error:
            if version == versions[-1]:
                raise
            report.add_damaged(name, version, error)
            if version not in newest and _modified(store, name, version) < older_than:
                expired.append(version)
            continue
        except StoreError:
            if version in newest:
                raise
            continue  # another garbage collection has deleted it
        if version in newest or _committed_at(commit) >= older_than:
            kept.append(commit)
        else:
            expired.append(version)
    return _History(kept, expired)


def _modified(store: Store, name: str, version: int) -> float:
    entry = store.files.stat(commit_path(name, version))
    return entry.modified if entry is not None else 0.0


def _committed_at(commit: Commit) -> float:
    return datetime.fromisoformat(commit.committed_at).timestamp()


def _referenced_images(
    store: Store, histories: Mapping[str, _History], report: GcReport
) -> tuple[pl.Series, pl.Series]:
    """The distinct sha256 (hex) of every image that a kept commit refers to.

    First those that the store has a copy of, then those that lie elsewhere; some are in both.
    """
    copied = in_place = pl.Series(SHA256, dtype=pl.String)
    for name, history in histories.items():
        newest = history.kept[-1]
        if not newest.properties.get(REFERS_TO_BLOBS):
            continue
        if newest.rows == 0:
            raise StoreError(
                f"table {name} is empty, so all its images would be deleted; nothing was "
                f"deleted. If the catalog was removed on purpose, delete {store.url}/{name}"
            )
        table = store.table(name, key=newest.key)
        for commit in history.kept:
            is_newest = commit is newest
            on_corrupt = partial(report.add_damaged, name, commit.version)
            rows = _listed_images(table, commit, None if is_newest else on_corrupt)
            lies_elsewhere = pl.col(LOCATION).is_not_null()
            copied = pl.concat([copied, rows.filter(~lies_elsewhere)[SHA256]]).unique()
            in_place = pl.concat([in_place, rows.filter(lies_elsewhere)[SHA256]]).unique()
    return copied.sort(), in_place.sort()


def _listed_images(
    table: Table, commit: Commit, on_corrupt: Callable[[str], None] | None
) -> pl.DataFrame:
    """The images (sha256, location) that the rows of a commit name.

    `location` is null where the store has a copy.
    """
    prefix = commit.properties.get(REFERS_TO_BLOBS)
    no_location = pl.lit(None, pl.String).alias(LOCATION)
    if isinstance(prefix, str):
        rows = _urls(table, commit, on_corrupt)
        if rows.width:
            rows = rows.filter(pl.col("url").str.starts_with(prefix)).select(
                pl.col("url").str.strip_prefix(prefix).alias(SHA256), no_location
            )
    else:
        rows = table.read(commit, columns=[SHA256, LOCATION], on_corrupt=on_corrupt)
        if rows.width and LOCATION not in rows.columns:  # written before images could lie elsewhere
            rows = rows.with_columns(no_location)
    if not rows.width:
        return pl.DataFrame(schema={SHA256: pl.String, LOCATION: pl.String})
    return rows.select(SHA256, LOCATION).filter(pl.col(SHA256).is_not_null())


def _urls(table: Table, commit: Commit, on_corrupt: Callable[[str], None] | None) -> pl.DataFrame:
    """The url of every image that the rows of a commit have."""
    rows = table.read(commit, columns=["url", "other_urls"], on_corrupt=on_corrupt)
    if "other_urls" not in rows.columns:
        return rows
    others = rows.select(pl.col("other_urls").explode().alias("url"))
    return pl.concat([rows.select("url"), others]).drop_nulls()


def _collect_files(
    store: Store,
    folder: str,
    history: _History | None,
    older_than: float,
    report: GcReport,
    dry_run: bool,
) -> None:
    """Delete old files of a table that no kept commit lists, and old temporary files."""
    kept = history.kept if history is not None else []
    listed = {file.path.rsplit("/", 1)[-1] for commit in kept for file in commit.files}
    unlisted = [
        *(
            (f"{folder}/{DATA}", entry)
            for entry in store.files.entries(f"{folder}/{DATA}")
            if entry.name not in listed
        ),
        *(
            (parent, entry)
            for parent in (folder, f"{folder}/{COMMITS}", f"{folder}/{DATA}")
            for entry in store.files.temporary_entries(parent)
        ),
    ]
    _delete_old(store, unlisted, older_than, report, dry_run)


def _delete_old(
    store: Store,
    unneeded: Sequence[tuple[str, Entry]],
    older_than: float,
    report: GcReport,
    dry_run: bool,
) -> None:
    """Delete those files, each with its folder, that no run may be about to need."""
    for parent, entry in unneeded:
        if entry.modified < older_than:
            report.files += 1
            report.bytes += entry.size
            if not dry_run:
                store.files.delete(f"{parent}/{entry.name}")


def _collect_vectors(
    store: Store,
    name: str,
    referenced: pl.Series,
    older_than: float,
    report: GcReport,
    dry_run: bool,
) -> None:
    """Rewrite the files of a per-image table without the rows of deleted images."""
    table = store.table(name, key=SHA256)

    def without_deleted_images(base: Commit | None) -> PendingCommit | None:
        # A run may be about to refer to what it has just stored.
        if base is None or _committed_at(base) >= older_than:
            return None
        files = [_without_deleted_images(table, file, referenced) for file in base.files]
        if files == list(base.files):
            return None
        properties = dict(base.properties)
        if GENERATION in properties:
            properties[GENERATION] = new_generation()
        return PendingCommit(files, inputs=base.inputs, properties=properties)

    newest = table.latest()
    if newest is None:
        return
    if dry_run:
        if _committed_at(newest) < older_than:
            counts = (_split_rows(table, file, referenced) for file in newest.files_with_role())
            report.vectors += sum(deleted for _, deleted in counts)
        return
    pruned = table.commit(without_deleted_images)
    report.vectors += newest.rows - (pruned.rows if pruned else 0)


def _without_deleted_images(table: Table, file: DataFile, referenced: pl.Series) -> DataFile:
    rows, deleted = _split_rows(table, file, referenced)
    if not deleted:
        return file
    return file.with_content(table.write_rows(rows, role=file.role, compression="uncompressed"))


def _split_rows(table: Table, file: DataFile, referenced: pl.Series) -> tuple[pl.DataFrame, int]:
    """The rows of referenced images, and the number of others; a corrupt file has none."""
    try:
        rows = table.read_file(file)
    except CorruptFileError:  # the next reader or writer of vectors rebuilds it
        return pl.DataFrame(), 0
    kept = rows.filter(pl.col(SHA256).is_in(referenced.implode()))
    return kept, rows.height - kept.height
