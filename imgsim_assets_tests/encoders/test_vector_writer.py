from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import pytest

from imgsim_assets.encoders import vector_writer
from imgsim_assets.encoders.engine import EncodedBatch
from imgsim_assets.encoders.known_failures import KnownFailures
from imgsim_assets.encoders.table import embeddings_table
from imgsim_assets.encoders.vector_files import TRUNCATED
from imgsim_assets.encoders.vector_rows import VectorRows
from imgsim_assets.encoders.vector_writer import VectorWriter
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL

KEYS = [f"{number:064x}" for number in range(6)]


class GatedTable(VectorTable):
    """Waits before it commits, until the gate is open."""

    def __init__(self, store: Store) -> None:
        super().__init__(store, "shop", "fingerprint")
        self.gate = threading.Event()
        self.has_begun = threading.Event()

    def append(self, rows: VectorRows, *, flags: Iterable[str] = ()) -> None:
        self.has_begun.set()
        assert self.gate.wait(60)
        super().append(rows, flags=flags)


class FailingTable(VectorTable):
    """A disk that is full for the first commits."""

    def __init__(self, store: Store, failures: int) -> None:
        super().__init__(store, "shop", "fingerprint")
        self._failures = failures

    def append(self, rows: VectorRows, *, flags: Iterable[str] = ()) -> None:
        self._failures -= 1
        if self._failures >= 0:
            raise OSError("no space left on device")
        super().append(rows, flags=flags)


def _known(store: Store) -> KnownFailures:
    return KnownFailures(embeddings_table(store, "shop"), THUMBNAIL)


def _batch(keys: list[str]) -> EncodedBatch[str]:
    numbers = np.array([[int(key, 16) + 1.0, 2.0] for key in keys], np.float32)
    return EncodedBatch(keys, numbers)


def _write(table: VectorTable, store: Store, *batches: list[str]) -> None:
    with VectorWriter(table, _known(store)) as writer:
        for keys in batches:
            writer.add(_batch(keys))


def test_batches_are_taken_while_others_are_committed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_writer, "COMMIT_EVERY_SECONDS", 0)
    table = GatedTable(store)

    with VectorWriter(table, _known(store)) as writer:
        writer.add(_batch(KEYS[:2]))
        assert table.has_begun.wait(60)
        monkeypatch.setattr(vector_writer, "COMMIT_EVERY_SECONDS", 3600)
        writer.add(_batch(KEYS[2:4]))
        assert table.keys() == set()
        table.gate.set()

    assert table.keys() == set(KEYS[:4])
    assert [len(part.sha256) for part in table.parts()] == [2, 2]


def test_vectors_that_could_not_be_committed_are_tried_once_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_writer, "COMMIT_EVERY_SECONDS", 0)
    table = FailingTable(store, failures=1)

    with pytest.raises(OSError, match="no space"):
        _write(table, store, KEYS[:2], KEYS[2:4])

    assert table.keys() == set(KEYS[:4])


def test_failed_commit_of_the_rest_raises(store: Store) -> None:
    with pytest.raises(OSError, match="no space"):
        _write(FailingTable(store, failures=1), store, KEYS[:2])


def test_features_become_unit_vectors_and_flagged_images_have_files_of_their_own(
    store: Store,
) -> None:
    table = VectorTable(store, "shop", "fingerprint")
    known = _known(store)
    known.flagged[TRUNCATED].add(KEYS[1])
    features = np.array([[3, 4], [0, 2], [0, 0], [np.inf, 1]], np.float32)

    with VectorWriter(table, known) as writer:
        writer.add(EncodedBatch(KEYS[:4], features))

    rows = table.read(KEYS[:2])
    np.testing.assert_allclose(rows.vectors, np.array([[0.6, 0.8], [0, 1]], np.float32), rtol=1e-6)
    np.testing.assert_allclose(rows.norms, [5, 2])
    assert table.flagged()[TRUNCATED] == {KEYS[1]}
    assert table.keys() == set(KEYS[:2])
    assert {key: status for key, (status, _) in known.reasons.items()} == {
        KEYS[2]: "zero_vector",
        KEYS[3]: "not_finite",
    }
