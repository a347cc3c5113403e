from __future__ import annotations

import numpy as np
import pytest

from imgsim_assets.encoders import copied_vectors
from imgsim_assets.encoders.copied_vectors import copy_from_other_catalogs
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.vector_tables import (
    damage_oldest,
    row_files,
    vector_rows,
    vector_table,
)


def test_missing_vectors_are_copied_from_other_catalogs(store: Store) -> None:
    vector_table(store, "first").append(vector_rows(["a", "b"], seed=1))
    vector_table(store, "second").append(vector_rows(["b", "c", "d"], seed=2))
    missing = {"a", "b", "c", "x"}

    copied = copy_from_other_catalogs(store, vector_table(store, "third"), missing)

    assert copied == 3
    assert missing == {"x"}
    assert vector_table(store, "third").keys() == {"a", "b", "c"}
    first = vector_table(store, "first").read(["a", "b"]).vectors
    np.testing.assert_array_equal(vector_table(store, "third").read(["a", "b"]).vectors, first)


def test_vectors_of_another_encoder_are_not_copied(store: Store) -> None:
    VectorTable(store, "first", "f" * 16).append(vector_rows(["a"]))
    missing = {"a"}

    assert copy_from_other_catalogs(store, vector_table(store, "second"), missing) == 0
    assert missing == {"a"}
    assert vector_table(store, "second").table.latest() is None


def test_damaged_vectors_of_another_catalog_are_not_copied(store: Store) -> None:
    vector_table(store, "first").append(vector_rows(["a"]))
    damage_oldest(store, vector_table(store, "first"))
    missing = {"a"}

    assert copy_from_other_catalogs(store, vector_table(store, "second"), missing) == 0
    assert missing == {"a"}


def test_intact_files_of_damaged_table_are_copied(store: Store) -> None:
    other = vector_table(store, "first")
    other.append(vector_rows(["a", "b"], seed=1))
    other.append(vector_rows(["c"], seed=2))
    damage_oldest(store, other)
    missing = {"a", "b", "c"}

    assert copy_from_other_catalogs(store, vector_table(store, "second"), missing) == 1
    assert missing == {"a", "b"}


@pytest.mark.parametrize("at_a_time", [1, 100, 2**20])
def test_files_are_copied_in_parts_and_later_vectors_win(
    store: Store, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = vector_table(store, "first")
    names = [f"{turn:02d}" for turn in range(12)]
    for turn, name in enumerate(names):
        other.append(vector_rows([name, "again"], seed=turn))
    monkeypatch.setattr(copied_vectors, "_MAX_COPIED_BYTES", at_a_time)
    mine = vector_table(store, "second")

    assert copy_from_other_catalogs(store, mine, {*names, "again", "nowhere"}) == 13

    expected = other.read([*names, "again"])
    np.testing.assert_array_equal(mine.read([*names, "again"]).vectors, expected.vectors)
    np.testing.assert_array_equal(
        mine.read(["again"]).vectors, vector_rows(["", "x"], 11).vectors[1:]
    )
    assert len(row_files(mine)) == {1: 12, 100: 3, 2**20: 1}[at_a_time]
