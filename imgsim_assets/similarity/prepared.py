"""Inputs that many joins share: checked, deduplicated and projected once.

A prepared input takes the place of an array in `threshold_join`, `radius_join` and `top_k`. Its
blocks are inputs too, so that a large join can be split between calls, processes and machines.
The results have the same bits as those of a single call.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Floats, UnitRows
from imgsim_assets.similarity.join import require_k, require_threshold
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.prefilter import Prefilter, choose_for_knn, choose_for_threshold
from imgsim_assets.similarity.projection import Projection
from imgsim_assets.similarity.threads import parallel_map, use_threads
from imgsim_assets.similarity.unique_rows import UniqueRows

_ROWS_PER_TASK = 2048
_SCALARS = "prepared.json"


def prepare_rows(
    rows: NDArray[np.floating] | JoinInput,
    *,
    others: NDArray[np.floating] | JoinInput | None = None,
    threshold: float | None = None,
    k: int | None = None,
    threads: int | None = None,
) -> JoinInput:
    """Rows that several joins use: the right side of `threshold_join`, the references of `top_k`.

    With a threshold or k, the prefilter is chosen for the join of all `others` with the rows, and
    the rows are projected for it. Both decide the time of later joins, not their results, and the
    joins may have another threshold or k.

    Args:
        rows: (n, d) float32 unit rows.
        others: (m, d) the left side, or the queries; default: the rows themselves.
        threshold: cosine of the joins, for `threshold_join`.
        k: neighbors of each query, for `top_k`.
        threads: how many threads; default: one on each core that the process may use.

    Returns:
        The input. It holds the rows, and, where a projection pays, up to 257 numbers for each.

    Raises:
        ValueError: for a row that is not a finite unit vector, for arrays of different width, for
            both a threshold and k, or for one that no join accepts.
    """
    if threshold is not None and k is not None:
        raise ValueError("give a threshold or k, not both: they need different prefilters")
    if threshold is not None:
        require_threshold(threshold)
    if k is not None:
        require_k(k)
    with use_threads(threads):
        prepared = JoinInput.of(rows, "rows")
        if threshold is None and k is None:
            return prepared
        other = prepared if others is None else JoinInput.of(others, "others")
        inputs = InputPair.of(other, prepared, ("others", "rows"))
        if threshold is not None:
            prefilter = choose_for_threshold(inputs, threshold)
        else:
            prefilter = choose_for_knn(inputs, k or 1, np.full(len(other), -np.inf))
        return _projected(prepared, prefilter)


def split_rows(prepared: JoinInput, blocks: int) -> Iterator[tuple[int, JoinInput]]:
    """A prepared input in about equal blocks, each with the number of its first row.

    Args:
        prepared: of `prepare_rows`.
        blocks: how many, at least 1; fewer where there are fewer rows.
    """
    count = len(prepared.unit.rows)
    size = max(1, -(-count // max(1, blocks)))
    for start in range(0, count, size):
        yield start, prepared.rows(start, start + size)


def save_prepared(prepared: JoinInput, folder: Path) -> None:
    """Write a prepared input as .npy files, which other processes map into their memory."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {
        "rows": prepared.unit.rows,
        "squares": prepared.unit.squares,
        "unique_first": prepared.unique.first,
        "unique_rows": prepared.unique.rows,
        "unique_start": prepared.unique.start,
    }
    if prepared.projection is not None and prepared.projected is not None:
        arrays |= {"basis": prepared.projection.basis, "projected": prepared.projected}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    scalars = {
        "deviation": prepared.unit.deviation,
        "length": prepared.projection.length if prepared.projection is not None else None,
        "is_planned": prepared.is_planned,
    }
    (folder / _SCALARS).write_text(json.dumps(scalars))


def open_prepared(folder: Path) -> JoinInput:
    """A prepared input of `save_prepared`; processes of one machine share its memory.

    The files are not checked: whoever wrote the folder is trusted.
    """

    def array(name: str) -> NDArray[Any]:
        # A plain view: the kernels take no subclasses.
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))

    scalars = json.loads((folder / _SCALARS).read_text())
    projection, projected = None, None
    if scalars["length"] is not None:
        projection, projected = Projection(array("basis"), scalars["length"]), array("projected")
    return JoinInput(
        UnitRows(array("rows"), array("squares"), scalars["deviation"]),
        UniqueRows(array("unique_first"), array("unique_rows"), array("unique_start")),
        projection,
        projected,
        scalars["is_planned"],
    )


def _projected(side: JoinInput, prefilter: Prefilter) -> JoinInput:
    """The input with the prefilter's projection applied to its unique rows."""
    projection = prefilter.projection
    if projection is None:
        return replace(side, projection=None, projected=None, is_planned=True)
    projected: Floats = np.empty((len(side), projection.width), dtype=np.float32)

    def fill(start: int) -> None:
        stop = min(start + _ROWS_PER_TASK, len(side))
        projected[start:stop] = projection.apply(*side.block(start, stop))

    for _ in parallel_map(fill, range(0, len(side), _ROWS_PER_TASK)):
        pass
    return replace(side, projection=projection, projected=projected, is_planned=True)
