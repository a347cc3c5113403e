"""The catalog stage: a source becomes the tables `<name>/items` and `<name>/rejects`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from imgsim_assets.catalog import reader, rows
from imgsim_assets.catalog.source import IMAGE_SUFFIXES, Source, SourceSettings, open_source
from imgsim_assets.errors import CorruptFileError, SourceError
from imgsim_assets.progress import silent
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.shards import Shard, shard_indices
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Commit, DataFile, PendingCommit, Table, replace_shard

_SHARD = "__shard"


@dataclass(frozen=True)
class CatalogReport:
    """What an ingestion found.

    `changed` says whether something was committed, `changed_shards` which shards' rows are new.
    """

    version: int
    rows: int
    rejects: Mapping[str, int]
    columns: Sequence[str]
    changed: bool
    data_version: str
    changed_shards: Sequence[str]


def catalog_table(store: Store, name: str) -> Table:
    """`<name>/items`: id, url and the carried columns, one file a shard, sorted by id."""
    return store.table(f"{name}/items", key="id")


def rejects_table(store: Store, name: str) -> Table:
    """`<name>/rejects`: file, line, reason, detail, text of every row that was left out."""
    return store.table(f"{name}/rejects")


def ingest(
    store: Store,
    name: str,
    settings: SourceSettings,
    shards: int,
    project_root: Path,
    *,
    max_removed_fraction: float = 1.0,
) -> CatalogReport:
    """Read and validate a catalog's source, and commit the shards whose rows changed.

    A source that was read before and has not changed is not read again. Raises SourceError
    when the source cannot be read, lacks a column, holds no usable row, or has lost more than
    the share `max_removed_fraction` of the items of the last version, which then stays the newest. With
    `allow_empty` a source may lose all its items, but not more than that share and keep some.
    """
    source = open_source(settings, project_root)
    table = catalog_table(store, name)
    base = table.latest()
    fingerprint = source.fingerprint(base.properties.get("hashes") if base else None)
    recipe = _recipe(settings, source.root, shards)
    if base is not None and _is_current(store, name, base, fingerprint.digest, recipe):
        return _report(store, name, base, base, changed_shards=[])
    found = rows.validate(reader.read(source), source)
    # Also of a source that is refused: there they say what is wrong with it.
    rejects_version = _commit_rejects(store, name, found.rejects)
    _refuse_empty(found, source, base)
    # Without rows it is empty because it may be, and whatever it held may go.
    if base is not None and max_removed_fraction < 1 and found.rows.height:
        _refuse_drop(table, base, found, source, max_removed_fraction)
    changed: list[str] = []

    def change(newest: Commit | None) -> PendingCommit:
        changed.clear()
        return PendingCommit(
            _files_of(table, newest, found.rows, shards, changed),
            inputs={"source": fingerprint.digest},
            properties={
                "recipe": recipe,
                "rejects": rejects_version,
                "hashes": dict(fingerprint.hashes),
                "id_column": found.id_column,
                "url_column": found.url_column,
                "root": source.root,
            },
        )

    commit = table.commit(change)
    if commit is None:
        raise AssertionError("an ingestion that reads its source commits what it read")
    return _report(store, name, commit, base, changed_shards=changed)


def _is_current(store: Store, name: str, base: Commit, digest: str, recipe: str) -> bool:
    """Whether the committed tables came from this source by this recipe, and are whole."""
    rejects = rejects_table(store, name)
    rejected = rejects.latest()
    return (
        base.inputs.get("source") == digest
        and base.properties.get("recipe") == recipe
        and catalog_table(store, name).is_whole(base)
        and rejected is not None
        # A source that was refused since has left its own rejects.
        and base.properties.get("rejects", rejected.version) == rejected.version
        and rejects.is_whole(rejected)
    )


def _recipe(settings: SourceSettings, root: str, shards: int) -> str:
    """A digest of everything but the source's content that decides the rows."""
    chosen = {"settings": settings.model_dump(mode="json"), "root": root, "shards": shards}
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def _refuse_empty(found: rows.CatalogRows, source: Source, base: Commit | None) -> None:
    if found.rows.height or source.settings.allow_empty:
        return
    message = f"{source.location} holds no usable row"
    if source.format == "images" and not source.files:
        message = (
            f"{source.location} holds no images ({' '.join(sorted(IMAGE_SUFFIXES))}); lists in "
            "a folder need a pattern, such as *.csv"
        )
    if found.rejects.height:
        message += f": all {_told_rejects(found.rejects)}"
    if base is not None and base.rows:
        message += f"; the {base.rows} items of the last version are kept"
    raise SourceError(message + ". If it is meant to be empty, set 'allow_empty: true'")


def _told_rejects(rejects: pl.DataFrame) -> str:
    first = rejects.row(0, named=True)
    return (
        f"{rejects.height} are rejected, the first in {first['file']} line {first['line']}: "
        f"{first['detail']}"
    )


def _refuse_drop(
    table: Table, base: Commit, found: rows.CatalogRows, source: Source, max_removed_fraction: float
) -> None:
    before = table.read(base, columns=["id"], skip_damaged=silent)
    count = found.rows.height
    # By id: a source that has as many rows under other ids would delete every item, too.
    gone = before.join(found.rows, on="id", how="anti").height if before.width else 0
    gone = max(gone, base.rows - count)
    if gone <= base.rows * max_removed_fraction:
        return
    columns = (base.properties.get("id_column"), found.id_column)
    other = f" Ids came from the column {columns[0]!r} and now come from {columns[1]!r}."
    broken = f" Of its rows {_told_rejects(found.rejects)}." if found.rejects.height else ""
    raise SourceError(
        f"{source.location} has {count} usable rows and had {base.rows}: {gone / base.rows:.0%} of "
        f"the items are gone, more than the {max_removed_fraction:.0%} of 'max_removed_fraction'."
        f"{other if columns[0] != columns[1] else ''}{broken} The last version is kept. If they "
        "are gone for good, materialize the catalog once with the run config 'allow_removals: true'"
    )


def _files_of(
    table: Table, base: Commit | None, found: pl.DataFrame, shards: int, changed: list[str]
) -> Sequence[DataFile]:
    """One file a shard: the committed one where its rows are the same, else a new one."""
    split = found.with_columns(shard_indices(found["id"], shards).alias(_SHARD)).partition_by(
        _SHARD, as_dict=True, include_key=False, maintain_order=True
    )
    files: list[DataFile] = []
    for index in range(shards):
        shard = Shard(index, shards)
        own = split.get((index,), found.clear())
        committed = base.of_shard(shard) if base else []
        if len(committed) == 1 and _holds(table, committed[0], own):
            files.append(committed[0])
        else:
            changed.append(shard.name)
            files.extend(replace_shard(None, shard, [table.write_rows(own)]))
    return files


def _holds(table: Table, file: DataFile, wanted: pl.DataFrame) -> bool:
    if file.rows != wanted.height:
        return False
    try:
        stored = table.read_file(file)
    except CorruptFileError:
        return False
    return stored.schema == wanted.schema and stored.equals(wanted)


def _commit_rejects(store: Store, name: str, rejects: pl.DataFrame) -> int:
    """Commit the rejects if they are others than the last; returns their version."""
    table = rejects_table(store, name)

    def change(base: Commit | None) -> PendingCommit | None:
        if base is not None and table.is_whole(base) and table.read(base).equals(rejects):
            return None
        return PendingCommit([table.write_rows(rejects)])

    commit = table.commit(change)
    if commit is None:
        raise AssertionError("rejects are always committed the first time")
    return commit.version


def _report(
    store: Store, name: str, commit: Commit, base: Commit | None, changed_shards: Sequence[str]
) -> CatalogReport:
    table = catalog_table(store, name)
    return CatalogReport(
        version=commit.version,
        rows=commit.rows,
        rejects=_counts(store, name),
        columns=list(table.read_file(commit.files[0]).columns),
        changed=base is None or commit.version != base.version,
        data_version=data_version(commit),
        changed_shards=list(changed_shards),
    )


def _counts(store: Store, name: str) -> dict[str, int]:
    table = rejects_table(store, name)
    commit = table.latest()
    if commit is None:
        return {}
    counted: Any = table.read(commit)["reason"].value_counts().sort("reason").iter_rows()
    return dict(counted)


def data_version(commit: Commit) -> str:
    """A digest of a commit's row files: equal when the rows of every shard are the same."""
    return rows_digest(pl.DataFrame({"file": [file.sha256 for file in commit.with_role()]}))
