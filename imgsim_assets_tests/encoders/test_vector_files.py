"""Compaction of vectors by prefix of sha256, and what a reader of a few keys reads."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from imgsim_assets.encoders import vector_files
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.storage.commit import Commit, DataFile
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.vectors import noise


def _key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _rows(numbers: Sequence[int], seed: int = 0, dim: int = 6) -> VectorRows:
    keys = [_key(number) for number in numbers]
    return VectorRows(keys, noise(len(keys), dim, seed), np.ones(len(keys), np.float32))


def _newest(table: VectorTable) -> Commit:
    commit = table.table.latest()
    assert commit is not None
    return commit


@pytest.fixture
def table(store: Store) -> VectorTable:
    return VectorTable(store, "shop", "f" * 16)


def test_an_append_is_one_file_in_the_order_of_arrival(table: VectorTable) -> None:
    table.append(_rows([3, 1, 2]))
    table.append(_rows([9, 8]))

    parts = list(table.parts())

    numbers = [[3, 1, 2], [9, 8]]
    assert [list(part.sha256) for part in parts] == [list(map(_key, each)) for each in numbers]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))]
)
def test_compaction_keeps_the_last_vector_of_every_key(
    seed: int, table: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_files, "_MAX_ARRIVED", 4)
    monkeypatch.setattr(vector_files, "_MAX_SORTED", 2)
    monkeypatch.setattr(vector_files, "_MAX_SORTED_BYTES", 300)
    monkeypatch.setattr(vector_files, "_MAX_MERGED_BYTES", 20_000)
    chance = random.Random(seed)
    expected: dict[str, np.ndarray] = {}
    for turn in range(30):
        rows = _rows(chance.sample(range(80), chance.randint(1, 20)), seed=turn)
        table.append(rows)
        expected.update(zip(rows.sha256, rows.vectors, strict=True))

        found = table.read(expected)
        np.testing.assert_array_equal(found.vectors, [expected[key] for key in sorted(expected)])

    files = vector_files.vector_files(_newest(table))
    assert len([file for file in files if not file.prefix]) < 4
    assert {len(file.prefix) for file in files} >= {1, 2}
    for file in files:
        keys = table.table.read_file(file.keys)["sha256"]
        assert all(key.startswith(file.prefix) for key in keys)
        assert keys.equals(table.table.read_file(file.rows)["sha256"])
        assert not file.prefix or keys.is_sorted()
    assert table.keys() == expected.keys()
    assert table.missing([*expected, _key(1000)]) == {_key(1000)}


def test_a_reader_of_few_keys_reads_little(
    table: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for turn in range(64):
        table.append(_rows(range(50 * turn, 50 * turn + 50), turn, dim=256))
    total = sum(file.bytes for file in _newest(table).files)
    read: list[DataFile] = []
    read_bytes = Table.read_bytes

    def count(self: Table, file: DataFile) -> bytes:
        read.append(file)
        return read_bytes(self, file)

    monkeypatch.setattr(Table, "read_bytes", count)
    found = table.read([_key(7), _key(1234)])

    assert len(found.sha256) == 2
    assert sum(file.bytes for file in read) < total / 5
    assert len([file for file in read if file.role == "rows"]) == 2
    read.clear()
    assert table.missing([_key(7)]) == set()
    assert sum(file.bytes for file in read) < total / 50


def test_a_lost_race_repeats_neither_the_reads_nor_the_writes_of_a_compaction(
    table: VectorTable, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_files, "_MAX_ARRIVED", 4)
    other = VectorTable(store, "shop", "f" * 16)
    for turn in range(3):
        table.append(_rows([turn], turn))
    reads: list[DataFile] = []
    others: list[VectorRows] = [_rows([100], 100)]
    read_file, replace = Table.read_file, vector_files._replace

    def count(self: Table, file: DataFile, *arguments: Any) -> Any:
        reads.append(file)
        return read_file(self, file, *arguments)

    def append_first(base: Commit | None, **options: Any) -> Any:
        if others:
            other.append(others.pop())
        return replace(base, **options)

    monkeypatch.setattr(Table, "read_file", count)
    monkeypatch.setattr(vector_files, "_replace", append_first)
    table.append(_rows([3], 3))

    assert len(reads) == 4
    monkeypatch.undo()
    files = vector_files.vector_files(_newest(table))
    assert len([file for file in files if not file.prefix]) == 1  # the one that came first
    expected = np.concatenate([_rows([turn], turn).vectors for turn in (0, 1, 2, 3, 100)])
    order = np.argsort([_key(turn) for turn in (0, 1, 2, 3, 100)])
    found = table.read(map(_key, (0, 1, 2, 3, 100)))
    np.testing.assert_array_equal(found.vectors, expected[order])


def test_files_that_another_writer_has_compacted_are_left_to_it(
    table: VectorTable, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for turn in range(3):
        table.append(_rows([turn], turn))
    before = _newest(table)
    monkeypatch.setattr(vector_files, "_MAX_ARRIVED", 3)
    vector_files.compact(table.table, before)
    after = _newest(table)

    vector_files.compact(table.table, before)

    assert _newest(table).version == after.version
    assert len(table.read(map(_key, range(3))).sha256) == 3


def test_concurrent_writers_and_compactions_lose_no_vector(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_files, "_MAX_ARRIVED", 4)

    def write(writer: int) -> None:
        mine = VectorTable(store, "shop", "f" * 16)
        for turn in range(12):
            mine.append(_rows([100 * writer + turn], 100 * writer + turn))

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()

    table = VectorTable(store, "shop", "f" * 16)
    numbers = sorted((100 * w + t for w in range(4) for t in range(12)), key=_key)
    found = table.read(map(_key, numbers))
    expected = np.concatenate([_rows([number], number).vectors for number in numbers])
    np.testing.assert_array_equal(found.vectors, expected)
