from __future__ import annotations

import hashlib
import threading

import numpy as np
import polars as pl
import pytest

from imgsim_assets.encoders import vectors
from imgsim_assets.encoders.vector_files import KEYS
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorAudit, VectorTable
from imgsim_assets.errors import StoreError
from imgsim_assets.storage.commit import ROWS
from imgsim_assets.storage.gc import GENERATION, PER_IMAGE
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.vector_tables import (
    PRINT,
    damage_oldest,
    vector_rows,
    vector_table,
)


def test_read_returns_vectors_bit_for_bit_sorted_by_key(store: Store) -> None:
    table = vector_table(store)
    rows = vector_rows(["c", "a", "b"])
    table.append(rows)

    found = table.read(["b", "c", "a", "c"])

    assert list(found.sha256) == ["a", "b", "c"]
    np.testing.assert_array_equal(found.vectors, rows.vectors[[1, 2, 0]])
    np.testing.assert_array_equal(found.norms, rows.norms[[1, 2, 0]])
    assert found.vectors.dtype == found.norms.dtype == np.float32
    assert found.vectors.flags.c_contiguous


def test_read_returns_only_requested_vectors(store: Store) -> None:
    table = vector_table(store)
    table.append(vector_rows(["a", "b", "c"]))

    assert list(table.read(["b"]).sha256) == ["b"]
    assert len(table.read([]).vectors) == 0


def test_read_of_missing_vectors_names_the_asset(store: Store) -> None:
    table = vector_table(store)

    with pytest.raises(StoreError, match="lacks the vectors of 1 image;"):
        table.read(["a"])
    table.append(vector_rows(["a", "b"]))
    with pytest.raises(StoreError, match="of 2 images; materialize shop/embeddings again"):
        table.read(["a", "x", "y"])


def test_keys_are_those_of_all_appends(store: Store) -> None:
    table = vector_table(store)
    assert table.keys() == set()

    table.append(vector_rows(["a", "b"]))
    table.append(vector_rows(["c"]))

    assert table.keys() == {"a", "b", "c"}


def test_audit_counts_missing_and_bad_vectors(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "AUDIT_ROWS", 2)
    names = [hashlib.sha256(bytes([number])).hexdigest() for number in range(9)]
    rows = vector_rows(names[:7])
    unit = rows.vectors / np.linalg.norm(rows.vectors, axis=1, keepdims=True)
    unit[2] *= 1.001
    unit[5, 0] = np.nan
    unit[6] = 0  # not requested
    table = vector_table(store)
    table.append(VectorRows(names[:3], unit[:3], rows.norms[:3]))
    table.append(VectorRows(names[3:7], unit[3:7], rows.norms[3:7]))

    requested = [pl.Series(names[:6]), pl.Series([names[0], names[8]])]

    assert table.audit(requested) == VectorAudit(vectors=6, bad=2, missing=1)
    assert table.audit([]) == VectorAudit(0, 0, 0)
    assert VectorTable(store, "empty", PRINT).audit(requested) == VectorAudit(0, 0, 7)


def test_append_of_no_rows_commits_nothing(store: Store) -> None:
    table = vector_table(store)

    table.append(vector_rows([]))

    assert table.table.latest() is None


def test_append_replaces_earlier_vector(store: Store) -> None:
    table = vector_table(store)
    table.append(vector_rows(["a", "b"], seed=1))
    later = vector_rows(["b"], seed=2)
    table.append(later)

    np.testing.assert_array_equal(table.read(["b"]).vectors, later.vectors)
    np.testing.assert_array_equal(
        table.read(["a"]).vectors, vector_rows(["a", "b"], seed=1).vectors[:1]
    )


def test_rows_are_those_of_images_that_may_occur_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imgsim_assets.encoders.vector_files._MAX_ARRIVED", 3)
    table, keys = vector_table(store), [hashlib.sha256(bytes([n])).hexdigest() for n in range(40)]
    for start in range(0, 40, 10):  # the first three files are sorted by prefix
        table.append(vector_rows(keys[start : start + 10], seed=start))
    table.append(vector_rows(keys[:5], seed=99))
    wanted = pl.Series([keys[n] for n in (7, 3, 39, 7, 20, 3)])

    parts = list(table.read_rows(RowBlocks.of(wanted.alias("sha256").to_frame())))

    positions = np.concatenate([part for part, _ in parts])
    assert sorted(positions.tolist()) == [0, 1, 2, 3, 4, 5]
    vectors = np.concatenate([part for _, part in parts])[np.argsort(positions)]
    of_all = table.read(keys)
    expected = [of_all.vectors[list(of_all.sha256).index(sha256)] for sha256 in wanted]
    np.testing.assert_array_equal(vectors, expected)
    np.testing.assert_array_equal(vectors[1], vector_rows(keys[:5], seed=99).vectors[3])


def test_rows_of_missing_images_are_an_error_after_those_that_were_found(store: Store) -> None:
    table = vector_table(store)
    table.append(vector_rows(["a", "b"]))
    found = table.read_rows(RowBlocks.of(pl.DataFrame({"sha256": ["b", "c", "c", "d"]})))

    assert next(found)[0].tolist() == [0]
    with pytest.raises(StoreError, match="lacks the vectors of 2 images; materialize shop"):
        next(found)


def test_tables_are_marked_for_garbage_collection_by_image(store: Store) -> None:
    table = vector_table(store)
    table.append(vector_rows(["a"]))

    commit = table.table.latest()
    assert commit is not None
    expected = {PER_IMAGE: True, "fingerprint": PRINT, "dim": 6}
    assert commit.properties == {**expected, GENERATION: table.generation}


def test_concurrent_appends_lose_no_vector(store: Store) -> None:
    def write(writer: int) -> None:
        for turn in range(6):
            vector_table(store).append(vector_rows([f"{writer}-{turn}"], seed=writer))

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert len(vector_table(store).keys()) == 24
    assert len(vector_table(store).read(vector_table(store).keys()).sha256) == 24


# ---- damage -----------------------------------------------------------------------------


def test_damaged_vectors_raise_and_leave_the_table(store: Store) -> None:
    table = vector_table(store)
    table.append(vector_rows(["a", "b"]))
    table.append(vector_rows(["c"]))
    path = damage_oldest(store, table)

    with pytest.raises(StoreError, match=f"{path}.*materialize shop/embeddings again"):
        table.read(["a", "c"])

    assert table.keys() == {"c"}
    assert list(table.read(["c"]).sha256) == ["c"]
    with pytest.raises(StoreError, match="lacks the vectors of 1 image;"):
        table.read(["a"])


def test_missing_file_leaves_the_table(store: Store) -> None:
    table = vector_table(store)
    table.append(vector_rows(["a"]))
    table.append(vector_rows(["b"]))
    damage_oldest(store, table).unlink()

    with pytest.raises(StoreError, match="is missing although a commit lists it"):
        table.read(["a", "b"])

    assert table.keys() == {"b"}


@pytest.mark.parametrize("role", [ROWS, KEYS])
def test_recomputed_vectors_can_be_read(store: Store, role: str) -> None:
    table = vector_table(store)
    table.append(vector_rows(["a"]))
    damage_oldest(store, table, role)
    with pytest.raises(StoreError, match="materialize shop/embeddings again"):
        table.read(["a"])
    assert table.keys() == set()

    table.append(vector_rows(["a"], seed=5))

    np.testing.assert_array_equal(table.read(["a"]).vectors, vector_rows(["a"], seed=5).vectors)


def test_table_without_intact_files_misses_its_vectors(store: Store) -> None:
    table = vector_table(store)
    table.append(vector_rows(["a"]))
    damage_oldest(store, table)

    for _ in range(2):
        with pytest.raises(StoreError, match="materialize shop/embeddings again"):
            table.read(["a"])


def test_damaged_keys_leave_the_table_with_their_vectors(store: Store) -> None:
    table = vector_table(store)
    table.append(vector_rows(["a"]))
    table.append(vector_rows(["b"]))
    damage_oldest(store, table, KEYS)

    assert table.keys() == {"b"}
    assert list(table.read(["b"]).sha256) == ["b"]


def test_compaction_drops_damaged_vectors(store: Store) -> None:
    table = vector_table(store)
    for turn in range(31):
        table.append(vector_rows([f"{turn}"], seed=turn))
    damage_oldest(store, table)

    table.append(vector_rows(["later"]))

    remaining = {*map(str, range(1, 31)), "later"}
    assert table.keys() == remaining
    assert set(table.read(remaining).sha256) == remaining


def test_rebuild_count_counts_dropped_vectors(store: Store) -> None:
    table = vector_table(store)
    assert table.rebuild_count == 0
    for turn in range(31):
        table.append(vector_rows([f"{turn}"], seed=turn))
    assert table.rebuild_count == 0

    damage_oldest(store, table)
    with pytest.raises(StoreError):
        table.read(["0"])
    assert table.rebuild_count == 1
    table.append(vector_rows(["again"]))
    assert table.rebuild_count == 1

    damage_oldest(store, table)
    table.append(vector_rows(["compacted"]))  # which leaves out what is damaged
    assert table.rebuild_count == 2


def test_missing_reads_keys_file_by_file(store: Store) -> None:
    table = vector_table(store)
    assert table.missing(["a", "b"]) == {"a", "b"}

    table.append(vector_rows(["a"]))
    table.append(vector_rows(["c"]))

    assert table.missing(["a", "b", "c"]) == {"b"}
    damage_oldest(store, table, KEYS)
    assert table.missing(["a", "b", "c"]) == {"a", "b"}


def test_parts_are_all_vectors(store: Store) -> None:
    table = vector_table(store)
    assert list(table.parts()) == []
    table.append(vector_rows(["b", "a"], seed=1))
    table.append(vector_rows(["c"], seed=2))

    first, second = table.parts()

    assert list(first.sha256) == ["b", "a"]
    np.testing.assert_array_equal(first.vectors, vector_rows(["b", "a"], seed=1).vectors)
    assert list(second.sha256) == ["c"]
    damage_oldest(store, table)
    with pytest.raises(StoreError, match="materialize shop/embeddings again"):
        list(table.parts())
