"""Reading a stored table as a Polars LazyFrame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table


def read_table(
    name: str, *, version: int | None = None, store: Store | str | Path | None = None
) -> pl.LazyFrame:
    """Read one version of a table of the store.

    The version is pinned when this function is called: a run that commits later does not change
    what the frame reads. Files are read when the frame is collected, and only as far as the query
    needs them.

    Args:
        name: Such as "products/images" or "matches/products__suppliers".
        version: Number of the version; default: the newest.
        store: The store, or its path or URL; default: the environment variable IMGSIM_STORE, else
            data/store of the project.

    Returns:
        The rows of the table, each key once.

    Raises:
        StoreError: The table or the version does not exist; the message lists those that do.
        CorruptFileError: A file of the version is missing, truncated or, if its checksum is
            verified, damaged. Local files of plain tables are memory-mapped and not verified.

    Examples:
        >>> from imgsim_assets import read_table
        >>> rows = read_table("products/images")
        >>> rows.filter(pl.col("status") != "ok").collect()
    """
    opened = store if isinstance(store, Store) else Store.open(store)
    table, commit = resolve_version(opened, name, version)
    return scan_table(table, commit)


def resolve_version(store: Store, name: str, version: int | None = None) -> tuple[Table, Commit]:
    """A table and one of its commits, the newest by default.

    Raises:
        StoreError: The table or the version does not exist.
    """
    table = store.table(name)
    commit = table.at(version) if version is not None else table.latest()
    if commit is None:
        names = store.table_names()
        raise StoreError(
            f"the store {store.url} has no table {name!r}; "
            + (f"it has {', '.join(names)}" if names else "it is empty: materialize an asset first")
        )
    return store.table(name, key=commit.key), commit


def scan_table(table: Table, commit: Commit) -> pl.LazyFrame:
    """The rows of a commit as a LazyFrame, read as by `read_table`.

    Raises:
        StoreError: The commit has no row files.
        CorruptFileError: A local file is missing or truncated.
    """
    row_files = commit.files_with_role()
    if not row_files:
        raise StoreError(f"table {table.name} version {commit.version} holds no rows")
    paths = table.local_paths(commit)
    if paths is not None and _is_plain(commit):
        table.check_files_exist(commit)
        return _scan_files(paths)
    schema = table.read_file(row_files[0]).schema

    def read_in_batches(
        columns: list[str] | None,
        predicate: pl.Expr | None,
        row_count: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        remaining = row_count
        for batch in _batches(table, commit):
            rows = _with_schema(batch, schema)
            rows = rows.filter(predicate) if predicate is not None else rows
            if remaining is not None:
                rows = rows.head(remaining)
                remaining -= rows.height
            yield rows.select(columns) if columns is not None else rows
            if remaining == 0:
                return

    return register_io_source(read_in_batches, schema=schema, is_pure=True)


def _scan_files(paths: list[Path]) -> pl.LazyFrame:
    """Parquet files as one table, with the columns of all."""
    if len({tuple(pl.read_parquet_schema(path).items()) for path in paths}) == 1:
        return pl.scan_parquet(paths, glob=False)
    return pl.concat([pl.scan_parquet(path, glob=False) for path in paths], how="diagonal_relaxed")


def _with_schema(rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Rows of a file that another version of the code wrote, with these columns."""
    if rows.schema == schema:
        return rows
    both = pl.concat([pl.DataFrame(schema=schema), rows], how="diagonal_relaxed")
    return both.select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def _batches(table: Table, commit: Commit) -> Iterator[pl.DataFrame]:
    if _is_plain(commit):
        for file in commit.files_with_role():
            yield table.read_file(file)
    else:
        yield table.read(commit)


def _is_plain(commit: Commit) -> bool:
    """Whether all rows of every row file are visible, so that files can be read one by one."""
    files = commit.files_with_role()
    if commit.key is None:
        return not any(commit.superseded_shards(file) for file in files)
    shards = {(file.shard, file.shard_count) for file in files}
    return len(shards) == len(files) and len({file.shard_count for file in files}) == 1
