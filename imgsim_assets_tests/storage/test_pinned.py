from __future__ import annotations

import pytest

from imgsim_assets.errors import StoreError
from imgsim_assets.storage.pinned import PinnedStore
from imgsim_assets.storage.reader import read_table
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.tables import latest_commit, put, values


def test_pinned_store_does_not_see_later_commits_and_tables(store: Store) -> None:
    table = store.table("products/items", key="id")
    put(table, {"a": 1})
    pinned = PinnedStore(store, {"products/items": latest_commit(table)})
    put(table, {"a": 2})
    put(store.table("suppliers/items", key="id"), {"b": 1})

    assert pinned.table_names() == ["products/items"]
    assert values(read_table("products/items", store=pinned).collect()) == {"a": 1}
    assert pinned.table("suppliers/items").latest() is None


def test_pinned_store_cannot_be_written_to(store: Store) -> None:
    with pytest.raises(StoreError, match="pinned"):
        put(PinnedStore(store, {}).table("products/items", key="id"), {"a": 1})
