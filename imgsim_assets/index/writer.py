"""Writes FAISS index files from vectors that come in parts, of which one is in memory at a time.

FAISS itself writes the head of a file, that of an empty index. What follows is arrays, each after
its length: `faiss.read_index` opens the files as those of `faiss.write_index`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
from numpy.typing import NDArray

from imgsim_assets.errors import errors_about
from imgsim_assets.index.vector_file import Floats, Indices, contiguous_runs

# Numbers (p,) of images and their vectors (p, dim).
Parts = Iterable[tuple[Indices, Floats]]

_LENGTH = np.dtype("<u8")
# What FAISS writes for an array without elements, and for an index without lists.
_EMPTY_ARRAY = np.zeros(1, _LENGTH).tobytes()
_NO_LISTS = b"il00"
# Lists in memory, of which the sizes of all follow.
_LISTS, _ALL_SIZES = b"ilar", b"full"


def write_flat(path: Path, dim: int, count: int, parts: Parts) -> None:
    """Write an IndexIDMap2 over an IndexFlatIP, with the vectors in the order of the parts.

    Args:
        path: the file.
        dim: the width of a vector.
        count: how many vectors all parts have.
        parts: the numbers and the vectors.

    Raises:
        OSError: when the disk is full, for example.
    """
    head, written = flat_head(dim, count), 0
    # Behind the vectors are the count of the numbers and the numbers.
    behind = len(head) + 4 * dim * count
    with open(path, "wb") as file:
        file.write(head)
        file.seek(behind)
        file.write(_length(count))
        for of_part, vectors in parts:
            with errors_about(path):
                file.seek(len(head) + 4 * dim * written)
                file.write(_contiguous(vectors).data)
                file.seek(behind + 8 * (1 + written))
                file.write(of_part.astype("<i8", copy=False).data)
            written += len(of_part)


def flat_head(dim: int, count: int) -> bytes:
    """What the file of a flat index has before its vectors, which their count and numbers follow.

    Its length does not depend on the arguments.
    """
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(dim))
    index.ntotal = index.index.ntotal = count
    return _head(index, 2 * _EMPTY_ARRAY) + _length(count * dim)


def write_ivf(
    path: Path, quantizer: Any, nprobe: int, numbers: Indices, lists: Indices, parts: Parts
) -> None:
    """Write an IndexIVFFlat.

    Args:
        path: the file.
        quantizer: a FAISS index of the centroids of the lists.
        nprobe: how many of the nearest lists a search scans.
        numbers: (n,) the numbers of all vectors; a list has them in this order.
        lists: (n,) the list of each of them.
        parts: the numbers and the vectors, in any order.

    Raises:
        OSError: when the disk is full, for example.
    """
    dim, count = int(quantizer.d), int(quantizer.ntotal)
    index: Any = faiss.IndexIVFFlat(quantizer, dim, count, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = min(nprobe, count)
    index.ntotal = len(numbers)
    index.replace_invlists(None, False)
    sizes = np.bincount(lists, minlength=count)
    head = _head(index, _NO_LISTS) + _LISTS + _length(count) + _length(4 * dim)
    head += _ALL_SIZES + _length(count) + sizes.astype(_LENGTH).tobytes()
    order = np.argsort(lists, kind="stable")
    first = np.cumsum(sizes) - sizes
    # Of each list the vectors, and then the numbers.
    begin = len(head) + first * (4 * dim + 8)
    offsets = np.empty(numbers.max(initial=-1) + 1, dtype=np.int64)
    within = np.arange(len(order)) - np.repeat(first, sizes)
    offsets[numbers[order]] = np.repeat(begin, sizes) + 4 * dim * within
    with open(path, "wb") as file:
        file.write(head)
        for start, size, at in zip(first.tolist(), sizes.tolist(), begin.tolist(), strict=True):
            of_list = numbers[order[start : start + size]].astype("<i8")
            file.seek(at + 4 * dim * size)
            file.write(of_list.tobytes())
        for of_part, vectors in parts:
            with errors_about(path):
                _write_at(file, offsets[of_part], _contiguous(vectors))


def _write_at(file: BinaryIO, offsets: Indices, vectors: Floats) -> None:
    """Write vectors (p, dim) at offsets (p,), neighbors in one call."""
    order = np.argsort(offsets)
    for rows in contiguous_runs(offsets[order], 4 * vectors.shape[1]):
        file.seek(int(offsets[order[rows.start]]))
        file.write(vectors[order[rows]].data)


def _head(index: Any, tail: bytes) -> bytes:
    """The file of an empty index without its last bytes, which say that it is empty."""
    serialized: bytes = faiss.serialize_index(index).tobytes()
    if not serialized.endswith(tail):
        raise AssertionError(f"FAISS {faiss.__version__} writes {type(index).__name__} otherwise")
    return serialized.removesuffix(tail)


def _length(length: int) -> bytes:
    return np.array([length], _LENGTH).tobytes()


def _contiguous(vectors: NDArray[np.floating]) -> Floats:
    return np.ascontiguousarray(vectors, dtype="<f4")
