"""The export of a table as a Delta table, whose change feed carries the rows of `read_changes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from imgsim_assets.errors import SettingsError, StoreError
from imgsim_assets.storage.changes import CHANGE, compare, key_of, read_changes
from imgsim_assets.storage.reader import resolve_version
from imgsim_assets.storage.store import Store

if TYPE_CHECKING:
    from deltalake import DeltaTable

# In the metadata of a Delta commit: the version of the store's table that it carries.
_VERSION = "imgsim_version"
_MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class DeltaExport:
    """The outcome of an export.

    Attributes:
        url: of the Delta table.
        delta_version: its newest version.
        version: the version of the store's table that it carries.
        added: rows that this export inserted.
        changed: rows that it updated.
        removed: rows that it deleted.
    """

    url: str
    delta_version: int
    version: int
    added: int = 0
    changed: int = 0
    removed: int = 0


def export_delta(store: Store, name: str, root: str, version: int | None = None) -> DeltaExport:
    """Bring the Delta table `<root>/<name>` to a version of a table, by one merge by key.

    Credentials of an object store come from the environment. Nothing is committed if the Delta
    table carries the version already.

    Args:
        store: the store of the table.
        name: such as "matches/products__suppliers".
        root: local path or URL of the folder of Delta tables.
        version: of the store's table; default: the newest.

    Raises:
        SettingsError: the package deltalake is not installed.
        StoreError: the table or version does not exist, or other writers won every time.
    """
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import CommitFailedError, DeltaError
    except ImportError as error:
        raise SettingsError(
            "export: deltalake is not installed; pip install 'imgsim_assets[delta]'"
        ) from error
    url = f"{root.rstrip('/')}/{name}"
    for _ in range(_MAX_ATTEMPTS):
        try:
            if not DeltaTable.is_deltatable(url):
                return _create(store, name, url, version)
            return _merge(store, name, DeltaTable(url), url, version)
        except CommitFailedError:
            continue
        except DeltaError as error:
            raise StoreError(
                f"export: {url}: {error}; fix the Delta table, or delete it"
            ) from error
    raise StoreError(f"export: {url}: other writers committed first; materialize it again")


def _create(store: Store, name: str, url: str, version: int | None) -> DeltaExport:
    from deltalake import write_deltalake

    table, commit = resolve_version(store, name, version)
    rows = table.read(commit)
    write_deltalake(
        url,
        rows,
        name=name.replace("/", "."),
        configuration={"delta.enableChangeDataFeed": "true"},
        commit_properties=_properties(commit.version),
    )
    return DeltaExport(url, 0, commit.version, added=rows.height)


def _merge(
    store: Store, name: str, delta: DeltaTable, url: str, version: int | None
) -> DeltaExport:
    table, commit = resolve_version(store, name, version)
    since = _carried_version(delta)
    if since is not None and since >= commit.version:
        return DeltaExport(url, delta.version(), since)
    rows = table.read(commit)
    key = key_of(commit, rows, name)
    changes = _changes(store, name, delta, since, commit.version, rows, key)
    if not changes.height:
        return DeltaExport(url, delta.version(), commit.version)
    columns = {column: f"source.`{column}`" for column in rows.columns}
    merged = (
        delta.merge(
            changes,
            predicate=" AND ".join(f"target.`{column}` = source.`{column}`" for column in key),
            source_alias="source",
            target_alias="target",
            merge_schema=True,  # tables of earlier versions lack columns
            commit_properties=_properties(commit.version),
        )
        .when_matched_delete(predicate=f"source.`{CHANGE}` = 'removed'")
        .when_matched_update(updates=columns)
        .when_not_matched_insert(updates=columns, predicate=f"source.`{CHANGE}` <> 'removed'")
        .execute()
    )
    return DeltaExport(
        url,
        delta.version(),
        commit.version,
        added=merged["num_target_rows_inserted"],
        changed=merged["num_target_rows_updated"],
        removed=merged["num_target_rows_deleted"],
    )


def _changes(
    store: Store,
    name: str,
    delta: DeltaTable,
    since: int | None,
    until: int,
    rows: pl.DataFrame,
    key: Sequence[str],
) -> pl.DataFrame:
    """The rows that the Delta table lacks, has otherwise, or has too many."""
    if since is not None:
        try:
            return read_changes(name, since=since, until=until, store=store).rows
        except StoreError:
            pass  # retention has deleted that version: the Delta table itself is compared
    carried: pl.DataFrame = pl.read_delta(delta)
    return compare(carried, rows, key)


def _carried_version(delta: DeltaTable) -> int | None:
    """The version that the newest commit of an export carries; None after commits of others."""
    newest = delta.history(1)[0]
    return int(newest[_VERSION]) if _VERSION in newest else None


def _properties(version: int) -> Any:
    from deltalake import CommitProperties

    return CommitProperties(custom_metadata={_VERSION: str(version)})
