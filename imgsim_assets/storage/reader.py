"""Reading a stored table as a Polars LazyFrame, for people and for downstream assets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import ROWS, Commit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table


def read_table(
    name: str, *, version: int | None = None, store: Store | str | Path | None = None
) -> pl.LazyFrame:
    """The newest (or one numbered) version of a table, such as "matches/products__suppliers".

    The version is pinned when this function is called: a run that commits later does not
    change what the frame reads. `store` defaults to the project's store (IMGSIM_STORE, else
    data/store). Raises StoreError, naming the tables there are, when the name has no commit.
    """
    opened = store if isinstance(store, Store) else Store.open(store)
    table, commit = resolve_version(opened, name, version)
    return scan_table(table, commit)


def resolve_version(store: Store, name: str, version: int | None = None) -> tuple[Table, Commit]:
    """A table and one of its commits, the newest by default; StoreError when there is none."""
    table = store.table(name)
    commit = table.at(version) if version is not None else table.latest()
    if commit is None:
        known = store.table_names()
        raise StoreError(
            f"the store {store.url} has no table {name!r}; "
            + (f"it has {', '.join(known)}" if known else "it is empty: materialize an asset first")
        )
    return store.table(name, key=commit.key), commit


def scan_table(table: Table, commit: Commit) -> pl.LazyFrame:
    """A commit's rows, read when they are collected and only as far as the query needs.

    Local files are mapped by Polars: they are checked to be there in their committed size,
    not against their checksums. Remote ones are checked as they are read.
    """
    if not commit.files_with_role(ROWS):
        raise StoreError(f"table {table.name} version {commit.version} holds no rows")
    paths = table.local_paths(commit)
    if paths is not None and _is_plain(commit):
        table.check_files_exist(commit)
        return _scan_files(paths)
    schema = table.read_file(commit.files_with_role(ROWS)[0]).schema

    def read_in_batches(
        columns: list[str] | None,
        predicate: pl.Expr | None,
        row_count: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        left = row_count
        for batch in _batches(table, commit):
            rows = _with_schema(batch, schema)
            kept = rows.filter(predicate) if predicate is not None else rows
            if left is not None:
                kept = kept.head(left)
                left -= kept.height
            yield kept.select(columns) if columns is not None else kept
            if left == 0:
                return

    return register_io_source(read_in_batches, schema=schema, is_pure=True)


def _scan_files(paths: list[Path]) -> pl.LazyFrame:
    """Files read as one table, with the columns of all."""
    if len({tuple(pl.read_parquet_schema(path).items()) for path in paths}) == 1:
        return pl.scan_parquet(paths, glob=False)
    return pl.concat([pl.scan_parquet(path, glob=False) for path in paths], how="diagonal_relaxed")


def _with_schema(rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Rows of a file that another version of the code wrote, with these columns."""
    if rows.schema == schema:
        return rows
    both = pl.concat([pl.DataFrame(schema=schema), rows], how="diagonal_relaxed")
    return both.select(pl.col(name).cast(kind) for name, kind in schema.items())


def _batches(table: Table, commit: Commit) -> Iterator[pl.DataFrame]:
    if _is_plain(commit):
        for file in commit.files_with_role(ROWS):
            yield table.read_file(file)
    else:
        yield table.read(commit)


def _is_plain(commit: Commit) -> bool:
    """Whether every row of every file counts, so that the files can be read one by one."""
    files = commit.files_with_role(ROWS)
    if not files:
        return False
    if commit.key is None:
        return not any(commit.superseded_shards(file) for file in files)
    shards = {(file.shard, file.shard_count) for file in files}
    return len(shards) == len(files) and len({file.shard_count for file in files}) == 1
