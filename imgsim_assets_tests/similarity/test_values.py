from __future__ import annotations

import polars as pl
import pytest

from imgsim_assets.catalog.stage import items_table
from imgsim_assets.errors import StoreError
from imgsim_assets.similarity.values import items_versions, values_within
from imgsim_assets.storage.commit import PendingCommit
from imgsim_assets.storage.store import Store

ROWS = pl.DataFrame(
    {"id": ["a", "b", "c"], "url": ["u", "v", "w"], "brand": ["x", None, "y"], "size": [1, 2, None]}
)


@pytest.fixture
def shop(store: Store) -> Store:
    table = items_table(store, "shop")
    table.commit(lambda _: PendingCommit([table.write_rows(ROWS)], {}))
    return store


def test_value_is_the_text_of_a_column(shop: Store) -> None:
    assert _values(shop, "brand") == {"a": "x", "b": None, "c": "y"}
    assert _values(shop, "size") == {"a": "1", "b": "2", "c": None}


def test_empty_cell_of_a_list_is_no_value(store: Store) -> None:
    table = items_table(store, "shop")
    rows = ROWS.with_columns(pl.col("brand").fill_null(""))
    table.commit(lambda _: PendingCommit([table.write_rows(rows)], {}))

    assert _values(store, "brand") == {"a": "x", "b": None, "c": "y"}


def test_several_columns_have_one_value_and_null_in_one_is_null(shop: Store) -> None:
    assert _values(shop, "brand", "size") == {"a": '{"brand":"x","size":"1"}', "b": None, "c": None}


def test_no_columns_read_nothing(store: Store) -> None:
    assert values_within(store, "shop", ()) is None
    assert items_versions(store, ["shop"], ()) == {}


def test_unknown_column_is_named_with_those_there_are(shop: Store) -> None:
    with pytest.raises(
        StoreError, match=r"shop/items has no column 'brnad'; name one of brand, size"
    ):
        values_within(shop, "shop", ["brnad"])


def test_version_of_the_items_is_an_input(shop: Store) -> None:
    assert items_versions(shop, ["shop"], ["brand"]) == {"shop/items": 1}


def _values(store: Store, *columns: str) -> dict[str, str | None]:
    values = values_within(store, "shop", columns)
    assert values is not None
    return dict(values.iter_rows())
