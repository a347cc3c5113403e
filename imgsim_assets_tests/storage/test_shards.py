from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from imgsim_assets.storage.shards import Shard, shard_index, shard_indices, shard_names


def test_partition_keys_are_padded_to_three_digits() -> None:
    assert shard_names(3) == ["000", "001", "002"]
    assert shard_names(1) == ["000"]
    assert shard_names(1001)[-1] == "1000"
    assert Shard(7, 12).name == "007"


def test_an_id_has_the_same_shard_in_every_release() -> None:
    ids = ["sku-1", "sku-2", "sku-3", "", "ü-字", " a ", "123456789"]

    assert [shard_index(item, 4) for item in ids] == [2, 0, 2, 0, 3, 0, 2]
    assert [shard_index(item, 1000) for item in ids] == [470, 612, 218, 0, 799, 244, 262]


@given(ids=st.lists(st.text(), max_size=30), count=st.integers(1, 9))
def test_shards_are_a_partition_of_the_rows_in_their_order(ids: list[str], count: int) -> None:
    rows = pl.DataFrame({"id": ids, "row": range(len(ids))}, schema={"id": pl.String, "row": int})

    parts = [Shard(index, count).filter(rows) for index in range(count)]

    assert all(part["row"].is_sorted() for part in parts)
    assert pl.concat(parts).sort("row").equals(rows)
    for index, part in enumerate(parts):
        assert all(shard_index(item, count) == index for item in part["id"])


@given(ids=st.lists(st.text(), max_size=30), count=st.integers(1, 9))
def test_shard_indices_equal_shard_index_of_each_id(ids: list[str], count: int) -> None:
    found = shard_indices(pl.Series("id", ids, dtype=pl.String), count)

    assert found.to_list() == [shard_index(item, count) for item in ids]


def test_filter_accepts_another_key_column() -> None:
    rows = pl.DataFrame({"id": ["x", "x"], "sku": ["sku-1", "sku-2"]})

    assert Shard(2, 4).filter(rows, "sku")["sku"].to_list() == ["sku-1"]
