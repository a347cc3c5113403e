"""Shards: the stable partition of a catalog's items by a hash of their id."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Shard:
    """The items whose id hashes to `index` of `count` (0 <= index < count)."""

    index: int
    count: int

    @property
    def name(self) -> str:
        """The partition key, zero-padded to three digits: "000", "001", ..."""
        return f"{self.index:03d}"

    def filter(self, rows: pl.DataFrame, key: str = "id") -> pl.DataFrame:
        """The rows whose key belongs to this shard, in their order."""
        if self.count == 1:
            return rows
        return rows.filter(shard_indices(rows[key], self.count) == self.index)


def shard_names(count: int) -> list[str]:
    """The partition keys of a catalog with `count` shards."""
    return [Shard(index, count).name for index in range(count)]


def shard_index(item_id: str, count: int) -> int:
    """The shard index of one id: `crc32(utf-8 id) % count`, the same on every machine."""
    return zlib.crc32(item_id.encode()) % count


def shard_indices(ids: pl.Series, count: int) -> pl.Series:
    """`shard_index` for a column of ids, as UInt32."""
    import polars as pl

    return pl.Series(
        ids.name, [shard_index(item, count) for item in ids.to_list()], dtype=pl.UInt32
    )
