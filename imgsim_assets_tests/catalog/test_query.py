"""Lists from databases."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from pydantic import ValidationError

from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import Source, open_source
from imgsim_assets.catalog.stage import ItemsStage
from imgsim_assets.errors import SourceError
from imgsim_assets.storage.store import Store


def connection(folder: Path, rows: int = 3) -> str:
    """A database with a table of products, and its URL."""
    path = folder / "shop.db"
    with sqlite3.connect(path) as database:
        database.execute("create table if not exists products (sku integer, image text)")
        database.execute("delete from products")
        values = [(number, f"http://h/{number}.jpg") for number in reversed(range(rows))]
        database.executemany("insert into products values (?, ?)", values)
    return f"sqlite:///{path}"


def query_source(folder: Path, sql: str, url: str) -> Source:
    """The source of a query."""
    settings = SourceSettings.model_validate({"sql": sql, "connection": url})
    return open_source(settings, folder)


def test_rows_of_a_query_are_items_until_the_table_changes(tmp_path: Path) -> None:
    url = connection(tmp_path)
    settings = SourceSettings.model_validate(
        {"sql": "select * from products", "connection": url, "id": "sku"}
    )
    stage = ItemsStage(
        Store.open(tmp_path / "store"), "shop", settings, shards=1, project_root=tmp_path
    )

    first, again = stage.run(), stage.run()
    connection(tmp_path, rows=4)
    more = stage.run()

    assert (first.rows, again.rows, more.rows) == (3, 3, 4)
    assert (again.changed, more.changed) == (False, True)
    assert (first.id_column, first.url_columns) == ("sku", ("image",))
    for file in (tmp_path / "store").rglob("*"):
        assert file.is_dir() or url.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    "url", ["nodriver://me:s3cret@db/shop", "s3cret", "sqlite:////no/such/s3cret%20folder/x.db"]
)
def test_failed_query_does_not_show_the_connection(tmp_path: Path, url: str) -> None:
    source = query_source(tmp_path, "select * from nothing", url)

    with pytest.raises(SourceError, match="check 'sql' and 'connection'") as raised:
        source.fingerprint()

    assert "me:s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_connection_is_masked_everywhere(tmp_path: Path) -> None:
    settings = query_source(tmp_path, "select 1", "postgresql://me:s3cret@db/shop").settings

    shown = f"{settings!r} {settings.model_dump(mode='json')} {settings.location}"

    assert "s3cret" not in shown


@pytest.mark.parametrize(
    "values", [{"sql": "select 1"}, {"path": "a.csv", "sql": "select 1", "connection": "x"}, {}]
)
def test_query_and_connection_belong_together(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"path: give either|connection: 'sql'"):
        SourceSettings.model_validate(values)
