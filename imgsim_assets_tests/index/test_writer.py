from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from imgsim_assets.index.ivf import trained_quantizer
from imgsim_assets.index.writer import write_flat, write_ivf
from imgsim_assets_tests.support.vectors import families

ROWS = families(500, 8, seed=1)
NUMBERS = np.random.default_rng(0).permutation(900)[:500].astype(np.int64)
PARTS = [(NUMBERS[part], ROWS[part]) for part in np.split(np.arange(500), [1, 1, 210, 480])]


def test_flat_file_has_the_bytes_that_faiss_writes(tmp_path: Path) -> None:
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(8))
    index.add_with_ids(ROWS, NUMBERS)
    faiss.write_index(index, str(tmp_path / "faiss"))

    write_flat(tmp_path / "parts", 8, 500, PARTS)

    assert (tmp_path / "parts").read_bytes() == (tmp_path / "faiss").read_bytes()


def test_flat_file_without_vectors_has_the_bytes_that_faiss_writes(tmp_path: Path) -> None:
    faiss.write_index(faiss.IndexIDMap2(faiss.IndexFlatIP(8)), str(tmp_path / "faiss"))

    write_flat(tmp_path / "parts", 8, 0, [])

    assert (tmp_path / "parts").read_bytes() == (tmp_path / "faiss").read_bytes()


def test_file_with_lists_has_the_bytes_that_faiss_writes(tmp_path: Path) -> None:
    quantizer = trained_quantizer(ROWS, 12)
    index = faiss.IndexIVFFlat(quantizer, 8, 12, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = 5
    index.add_with_ids(ROWS, NUMBERS)
    faiss.write_index(index, str(tmp_path / "faiss"))
    lists = quantizer.search(ROWS, 1)[1][:, 0]

    write_ivf(tmp_path / "parts", quantizer, 5, NUMBERS, lists, reversed(PARTS))

    assert (tmp_path / "parts").read_bytes() == (tmp_path / "faiss").read_bytes()


def test_few_lists_with_vectors_are_read_by_faiss(tmp_path: Path) -> None:
    quantizer = trained_quantizer(ROWS, 12)
    part = (np.array([7, 3]), ROWS[:2])
    lists = quantizer.search(ROWS[:2], 1)[1][:, 0]

    write_ivf(tmp_path / "parts", quantizer, 12, part[0], lists, [part])

    index: Any = faiss.read_index(str(tmp_path / "parts"))
    assert (index.ntotal, index.nlist) == (2, 12)
    assert index.search(ROWS[:2], 1)[1].tolist() == [[7], [3]]
