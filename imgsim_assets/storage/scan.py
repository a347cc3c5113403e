"""Scanning the rows of a commit as a Polars LazyFrame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from polars.io.plugins import register_io_source

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import Commit, Key
from imgsim_assets.storage.table import Table, with_key


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
    if paths is not None and _all_rows_visible(commit):
        table.check_files_exist(commit)
        return _scan_files(paths, commit.key)
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


def _scan_files(paths: list[Path], key: Key) -> pl.LazyFrame:
    """Parquet files as one table, with the columns of all."""
    if len({tuple(pl.read_parquet_schema(path).items()) for path in paths}) == 1:
        return with_key(pl.scan_parquet(paths, glob=False), key)
    frames = [with_key(pl.scan_parquet(path, glob=False), key) for path in paths]
    return pl.concat(frames, how="diagonal_relaxed")


def _with_schema(rows: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Rows of a file that another version of the code wrote, with these columns."""
    if rows.schema == schema:
        return rows
    both = pl.concat([pl.DataFrame(schema=schema), rows], how="diagonal_relaxed")
    return both.select(pl.col(name).cast(dtype) for name, dtype in schema.items())


def _batches(table: Table, commit: Commit) -> Iterator[pl.DataFrame]:
    if _all_rows_visible(commit):
        for file in commit.files_with_role():
            yield table.read_file(file)
    else:
        yield table.read(commit)


def _all_rows_visible(commit: Commit) -> bool:
    """Whether all rows of every row file are visible, so that files can be read one by one."""
    files = commit.files_with_role()
    if commit.key is None:
        return not any(commit.superseded_shards(file) for file in files)
    shards = {(file.shard, file.shard_count) for file in files}
    return len(shards) == len(files) and len({file.shard_count for file in files}) == 1
