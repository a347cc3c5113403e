"""Which inverted list each vector is in, as tasks over parts of the vectors."""

from __future__ import annotations

from functools import partial
from typing import Any

import faiss
import numpy as np

from imgsim_assets.compute.tasks import run_tasks, task_ranges
from imgsim_assets.encoders.vectors import VectorTable
from imgsim_assets.index.vector_file import Floats, Indices
from imgsim_assets.storage.gc import SHA256
from imgsim_assets.storage.row_blocks import RowBlocks

# Fewer images are not worth a task of a cluster.
_MIN_IMAGES = 1 << 14
# What a task needs: a file of vectors, and the libraries.
_TASK_BYTES = 2**30
# Lists whose products with a vector are closer are compared in float64: rounding errors, which
# depend on the batch and the machine, are far smaller.
_MARGIN = 1e-5
_DECIMALS = 12
_ROWS_PER_COMPARISON = 1024


def assigned_lists(vectors: VectorTable, quantizer: Any, images: RowBlocks) -> Indices:
    """The list of each image.

    Args:
        vectors: has the vectors of the images.
        quantizer: a FAISS index of the centroids of the lists.
        images: n rows with the column sha256.

    Returns:
        (n,) numbers of lists, the same in every batch and on every machine.

    Raises:
        StoreError: when vectors are missing or damaged.
    """
    centroids = quantizer.reconstruct_n(0, quantizer.ntotal)
    ranges = task_ranges(len(images), smallest=_MIN_IMAGES, largest=max(1, len(images)))
    order = np.arange(len(images))
    tasks = [images]
    if len(ranges) != 1:
        # A task of images with similar keys reads few files.
        order = images.all()[SHA256].arg_sort().to_numpy().astype(np.int64)
        tasks = [
            RowBlocks.of(images.gather(order[part.start : part.stop], [SHA256])) for part in ranges
        ]
    assign = partial(_assign, vectors, centroids)
    found = run_tasks(assign, tasks, "inverted lists", unit="batches", memory=_TASK_BYTES)
    lists: Indices = np.empty(len(images), dtype=np.int64)
    for part, of_part in zip(ranges, found, strict=True):
        lists[order[part.start : part.stop]] = of_part
    return lists


def _assign(vectors: VectorTable, centroids: Floats, images: RowBlocks) -> Indices:
    """The task: the lists of some images."""
    quantizer: Any = faiss.IndexFlatIP(centroids.shape[1])
    quantizer.add(centroids)
    lists = np.empty(len(images), dtype=np.int64)
    for rows, part in vectors.read_rows(images):
        lists[rows] = nearest_lists(quantizer, centroids, part)
    return lists


def nearest_lists(quantizer: Any, centroids: Floats, vectors: Floats) -> Indices:
    """The list (n,) of greatest cosine of each vector (n, d); of equal ones the first."""
    count = min(2, len(centroids))
    products, found = quantizer.search(vectors, count)
    lists: Indices = found[:, 0]
    if count == 1:
        return lists
    close = np.flatnonzero(products[:, 0] - products[:, 1] < _MARGIN)
    wide = centroids.astype(np.float64).T
    for start in range(0, len(close), _ROWS_PER_COMPARISON):
        rows = close[start : start + _ROWS_PER_COMPARISON]
        exact = vectors[rows].astype(np.float64) @ wide
        lists[rows] = exact.round(_DECIMALS).argmax(axis=1)
    return lists
