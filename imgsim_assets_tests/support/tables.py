"""Small tables of ids and numbers, and ways to commit to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from imgsim_assets.storage.commit import Commit, PendingCommit, append_to_shard, replace_shard
from imgsim_assets.storage.sealed_json import CHECKSUM, seal
from imgsim_assets.storage.shards import Shard, shard_index
from imgsim_assets.storage.table import Table


def frame(values: Mapping[str, int]) -> pl.DataFrame:
    """A frame with columns id and value."""
    return pl.DataFrame(
        {"id": list(values), "value": list(values.values())},
        schema={"id": pl.String, "value": pl.Int64},
    )


def values(rows: pl.DataFrame) -> dict[str, int]:
    """The rows as a dict from id to value; asserts that ids are unique."""
    if not rows.width:
        return {}
    value_by_id = dict(zip(rows["id"].to_list(), rows["value"].to_list(), strict=True))
    assert len(value_by_id) == rows.height, f"duplicate ids: {sorted(rows['id'])}"
    return value_by_id


def items_of_shard(content: Mapping[str, int], shard: Shard) -> dict[str, int]:
    """The items that belong to a shard."""
    return {
        item: value
        for item, value in content.items()
        if shard_index(item, shard.count) == shard.index
    }


def resealed(commit: Mapping[str, Any]) -> bytes:
    """The parsed and changed JSON of a commit as a file with a matching checksum."""
    return seal({name: value for name, value in commit.items() if name != CHECKSUM})


def put(table: Table, content: Mapping[str, int]) -> Commit:
    """Commit the content as the whole table, in one file."""
    file = table.write_rows(frame(content))
    return _committed(table.commit(lambda _: PendingCommit([file])))


def add(table: Table, content: Mapping[str, int]) -> Commit:
    """Commit the content as one more file of an unsharded table."""
    file = table.write_rows(frame(content))
    return _committed(
        table.commit(lambda base: PendingCommit([*(base.files if base else ()), file]))
    )


def append(table: Table, shard: Shard, content: Mapping[str, int]) -> Commit:
    """Commit the content as a delta file of a shard."""
    file = table.write_rows(frame(content))
    return _committed(
        table.commit(lambda base: PendingCommit(append_to_shard(base, shard, [file])))
    )


def put_snapshot(table: Table, shard: Shard, content: Mapping[str, int]) -> Commit:
    """Commit the content as the snapshot of a shard."""
    file = table.write_rows(frame(content))
    return _committed(table.commit(lambda base: PendingCommit(replace_shard(base, shard, [file]))))


def latest_commit(table: Table) -> Commit:
    """The newest commit of a table that has one."""
    return _committed(table.latest())


def _committed(commit: Commit | None) -> Commit:
    assert commit is not None
    return commit
