from __future__ import annotations

import json
from pathlib import Path

import pytest

from imgsim_assets.errors import CorruptFileError, FormatError
from imgsim_assets.storage.commit_log import LATEST, commit_path
from imgsim_assets.storage.damage import BytesRead
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets.storage.table_damage import inspect_table
from imgsim_assets_tests.support import tables
from imgsim_assets_tests.support.damage import flip_bit, flip_bit_in_file

NAME = "products/index"


@pytest.fixture
def table(store: Store) -> Table:
    """A table with three versions of a file of its own each."""
    table = store.table(NAME, key="id")
    for value in (1, 2, 3):
        tables.put(table, {"a": value})
    return table


def path_of(store: Store, version: int) -> Path:
    return Path(store.url) / commit_path(NAME, version)


def repaired(store: Store) -> list[str]:
    """Repair all damage of the table, and check that none is left but in the newest version."""
    return [damage.repair() for damage in inspect_table(store, NAME, BytesRead())]


def values(store: Store) -> dict[str, int]:
    table = store.table(NAME, key="id")
    return tables.values(table.read(tables.latest_commit(table)))


def test_intact_table_has_no_damage(store: Store, table: Table) -> None:
    read = BytesRead()

    assert inspect_table(store, NAME, read) == []
    assert (read.versions, read.files) == (3, 3)


def test_damaged_newest_commit_is_restored_from_its_copy(store: Store, table: Table) -> None:
    whole = path_of(store, 3).read_bytes()
    flip_bit_in_file(path_of(store, 3))
    with pytest.raises(CorruptFileError, match="imgsim verify --repair"):
        table.latest()

    assert repaired(store) == [f"restored version 3 from {LATEST}"]

    assert path_of(store, 3).read_bytes() == whole
    assert inspect_table(store, NAME, BytesRead()) == []


def test_damaged_newest_commit_without_a_copy_becomes_the_version_before(
    store: Store, table: Table
) -> None:
    flip_bit_in_file(path_of(store, 3))
    (Path(store.url) / NAME / LATEST).unlink()

    assert repaired(store) == ["version 3 is now equal to version 2"]

    assert values(store) == {"a": 2}
    assert table.versions() == [1, 2, 3]
    assert inspect_table(store, NAME, BytesRead()) == []
    assert tables.put(store.table(NAME, key="id"), {"a": 4}).version == 4


def test_table_without_an_intact_commit_starts_again(store: Store, table: Table) -> None:
    for version in (1, 2, 3):
        flip_bit_in_file(path_of(store, version))
    (Path(store.url) / NAME / LATEST).unlink()

    repaired(store)

    assert store.table(NAME).latest() is None
    assert inspect_table(store, NAME, BytesRead()) == []


def test_missing_newest_commit_is_restored_from_its_copy(store: Store, table: Table) -> None:
    path_of(store, 3).unlink()

    [damage] = inspect_table(store, NAME, BytesRead())
    assert "000000000003.json is missing" in damage.message
    damage.repair()

    assert values(store) == {"a": 3}


@pytest.mark.parametrize("copied", ["damaged", "of another table"])
def test_wrong_copy_is_written_again(store: Store, table: Table, copied: str) -> None:
    path = Path(store.url) / NAME / LATEST
    if copied == "damaged":
        flip_bit_in_file(path)
    else:
        other = store.table("suppliers/index")
        for value in (5, 6):
            tables.put(other, {"a": value})
        path.write_bytes((Path(store.url) / other.name / LATEST).read_bytes())

    assert repaired(store) == [f"wrote {LATEST} again"]

    assert path.read_bytes() == path_of(store, 3).read_bytes()
    assert inspect_table(store, NAME, BytesRead()) == []


def test_older_copy_is_no_damage(store: Store, table: Table) -> None:
    (Path(store.url) / NAME / LATEST).write_bytes(path_of(store, 2).read_bytes())

    assert inspect_table(store, NAME, BytesRead()) == []


@pytest.mark.parametrize("damaged", ["commit", "file"])
def test_damage_of_a_superseded_version_is_recorded(
    store: Store, table: Table, damaged: str
) -> None:
    if damaged == "commit":
        flip_bit_in_file(path_of(store, 2))
    else:
        flip_bit(store, table, table.at(2).files[0])
    [damage] = inspect_table(store, NAME, BytesRead())
    assert "records it as lost" in damage.message

    damage.repair()

    assert inspect_table(store, NAME, BytesRead()) == []
    assert table.versions() == [1, 2, 3, 4]
    assert values(store) == {"a": 3}
    newest = tables.latest_commit(table)
    assert (newest.key, newest.files) == ("id", table.at(3).files)


def test_damaged_file_of_the_newest_version_stays_a_problem_until_it_is_replaced(
    store: Store, table: Table
) -> None:
    flip_bit(store, table, tables.latest_commit(table).files[0])

    repaired(store)
    [damage] = inspect_table(store, NAME, BytesRead())
    assert "materialize the asset again" in damage.message
    assert damage.repair() == ""

    tables.put(table, {"a": 4})
    assert inspect_table(store, NAME, BytesRead()) == []


def test_table_of_another_format_is_refused(store: Store, table: Table) -> None:
    document = {**_document(path_of(store, 3)), "format": 9}
    path_of(store, 3).write_bytes(tables.resealed(document))

    with pytest.raises(FormatError, match="format 9"):
        inspect_table(store, NAME, BytesRead())


def _document(path: Path) -> dict[str, object]:
    document: dict[str, object] = json.loads(path.read_bytes())
    return document
