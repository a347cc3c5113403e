from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from imgsim_assets.errors import CorruptFileError, StoreError
from imgsim_assets.index import index_file
from imgsim_assets.index.index_file import IndexFile, part_checksums
from imgsim_assets.index.opening import INDEX, PART_CHECKSUMS, open_vectors
from imgsim_assets.index.settings import IndexSettings
from imgsim_assets.index.stage import IndexStage, index_table, open_index
from imgsim_assets.index.vector_file import Floats
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets_tests.support.catalogs import indexed, tiny

PART = 64


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_file, "PART_BYTES", PART)


@pytest.fixture
def index(store: Store) -> Table:
    """The index of a catalog of 12 images."""
    indexed(store, "shop", {f"{n:02d}": tiny(n) for n in range(12)})
    return index_table(store, "shop")


def _commit(index: Table) -> Commit:
    commit = index.latest()
    assert commit is not None
    return commit


def _file(store: Store, index: Table) -> tuple[DataFile, Path]:
    (file,) = _commit(index).files_with_role(INDEX)
    return file, Path(store.url) / index.name / file.path


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def _damage_vector(store: Store, index: Table, vector: Floats) -> None:
    path = _file(store, index)[1]
    _flip(path, path.read_bytes().index(vector.tobytes()) + vector.nbytes // 2)


def _read(index: Table, rows: list[int] | None = None) -> dict[int, list[float]]:
    chosen = None if rows is None else np.array(rows)
    parts = open_vectors(index, _commit(index)).parts(chosen)
    found: dict[int, list[float]] = {}
    for numbers, vectors in parts:
        found |= dict(zip(numbers.tolist(), vectors.tolist(), strict=True))
    return found


def _vectors(store: Store) -> Floats:
    return open_index(store, "shop")[1].vectors()


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_vectors_are_those_of_the_index(store: Store, index: Table, kind: str) -> None:
    if kind == "ivf":
        IndexStage(store, "shop", IndexSettings(kind="ivf", min_items=1)).run()
    expected = _vectors(store)

    assert _commit(index).properties["kind"] == kind
    assert _read(index) == dict(enumerate(expected.tolist()))
    assert _read(index, [3, 7]) == {row: expected[row].tolist() for row in (3, 7)}


def test_each_byte_of_the_file_has_a_checksum(store: Store, index: Table) -> None:
    commit, (file, path) = _commit(index), _file(store, index)
    assert len(file.metadata[PART_CHECKSUMS]) == -(-file.bytes // PART)
    for offset in range(0, file.bytes, PART // 2):
        _flip(path, offset)
        with pytest.raises(CorruptFileError, match=f"{path} does not match .* materialize"):
            open_vectors(index, commit).verify()
        _flip(path, offset)
    open_vectors(index, commit).verify()


def test_damage_elsewhere_does_not_stop_a_reader_of_some_vectors(
    store: Store, index: Table
) -> None:
    expected = _vectors(store)
    _damage_vector(store, index, expected[6])

    assert _read(index, [0]) == {0: expected[0].tolist()}
    for rows in ([6], None):
        with pytest.raises(CorruptFileError):
            _read(index, rows)


@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut in half"])
def test_missing_and_truncated_files_are_not_opened(
    store: Store, index: Table, damage: str
) -> None:
    file, path = _file(store, index)
    if damage == "deleted":
        path.unlink()
    else:
        os.truncate(path, 0 if damage == "emptied" else file.bytes // 2)

    with pytest.raises(CorruptFileError, match="materialize the asset again"):
        _read(index)


def test_the_whole_file_of_an_earlier_version_is_verified(store: Store, index: Table) -> None:
    expected = _vectors(store)
    index.commit(_without_checksums)
    assert _read(index) == dict(enumerate(expected.tolist()))
    _damage_vector(store, index, expected[6])

    with pytest.raises(CorruptFileError):
        _read(index, [0])


def _without_checksums(commit: Commit | None) -> PendingCommit:
    assert commit is not None
    files = [
        DataFile(file.path, file.bytes, file.sha256, rows=file.rows, role=file.role)
        for file in commit.files
    ]
    return PendingCommit(files, inputs=commit.inputs, properties=commit.properties)


def test_a_part_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 2)
    file = IndexFile(path, part_checksums(path))
    verified = []
    preadv = os.preadv

    def noted(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset % PART == 0:
            verified.append(offset // PART)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", noted)
    read = np.empty(70, np.uint8)
    for _ in range(2):
        file.read(read, 100)
        assert read.tolist() == [*range(100, 170)]
    assert verified == [1, 2]
    file.verify()
    assert sorted(verified) == [*range(8)]


def test_a_file_that_is_truncated_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    file = IndexFile(path)
    os.truncate(path, 50)

    with pytest.raises(StoreError, match="truncated while it was open"):
        file.read(np.empty(60, np.uint8), 0)
