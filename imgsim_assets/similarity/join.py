"""Exact joins of unit vectors: all pairs above a threshold, and the k nearest.

A prefilter (`prefilter.py`) scores tiles of pairs to find candidates. Its error is bounded, and
the cutoff is lowered by that bound, so it never misses a pair. Candidates are scored again by a
float32 product of the whole rows, and then in float64. The result is that of the float64
definition, whatever the prefilter, tiles, threads, memory or device. Rows that are equal
(`unique_rows.py`) are compared once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgsim_assets.compute.device import use_device
from imgsim_assets.similarity.cosine import Doubles, Indices, distances, pair_cosines
from imgsim_assets.similarity.join_input import InputPair, JoinInput
from imgsim_assets.similarity.knn import nearest
from imgsim_assets.similarity.prefilter import Prefilter, choose_for_threshold
from imgsim_assets.similarity.scan import or_on_cpu, scan
from imgsim_assets.similarity.shared_prefilter import SharedPrefilter
from imgsim_assets.similarity.threads import use_threads
from imgsim_assets.similarity.tiles import MEMORY_BUDGET, RowBlock, max_candidates
from imgsim_assets.similarity.unique_rows import expand_duplicates

# Unit rows (n, d), or rows that were prepared for several joins.
Rows = NDArray[np.floating] | JoinInput

# Far more than the rounding of 1 - radius^2 / 2 and of the distance computed back from it.
_RADIUS_SLACK = 1e-12
_MAX_DISTANCE = 2.0


def threshold_join(
    left: Rows,
    right: Rows,
    threshold: float,
    *,
    memory_budget: int = MEMORY_BUDGET,
    threads: int | None = None,
    device: str | None = None,
) -> tuple[Indices, Indices, Doubles]:
    """All pairs of rows whose cosine is at least the threshold.

    Args:
        left: (n, d) float32 unit rows, or rows of `prepare_rows`.
        right: (m, d) the same.
        threshold: cosine in [-1, 1], inclusive.
        memory_budget: bytes for working memory, beside the inputs and what sorting the pairs
            takes (about three times the result).
        threads: how many threads; default: one on each core that the process may use.
        device: auto, cpu, cuda or cuda:N; default: auto, a GPU for a large join if there is one.

    Returns:
        Row numbers of left and right (int64) and cosines (float64) of the pairs, sorted by
        left row, then falling cosine, then right row.

    Raises:
        ValueError: for a threshold outside [-1, 1], arrays of different width, threads below 1, a
            device that is not there, or a row that is not a finite unit vector; the message names
            the row.
    """
    require_threshold(threshold)
    with use_threads(threads), use_device(device):
        inputs = InputPair.of(JoinInput.of(left, "left"), JoinInput.of(right, "right"))
        return pairs_above(inputs, threshold, memory_budget=memory_budget)


def radius_join(
    left: Rows,
    right: Rows,
    radius: float,
    *,
    memory_budget: int = MEMORY_BUDGET,
    threads: int | None = None,
    device: str | None = None,
) -> tuple[Indices, Indices, Doubles]:
    """All pairs of rows whose Euclidean distance, sqrt(2 - 2 cosine), is at most the radius.

    Args:
        left: (n, d) float32 unit rows, or rows of `prepare_rows`.
        right: (m, d) the same.
        radius: distance of at least 0, inclusive.
        memory_budget: bytes for working memory, as of `threshold_join`.
        threads: as of `threshold_join`.
        device: as of `threshold_join`.

    Returns:
        Row numbers of left and right (int64) and distances (float64) of the pairs, sorted by
        left row, then distance, then right row.

    Raises:
        ValueError: for a radius below 0 or NaN, and as `threshold_join` does.
    """
    if not radius >= 0:
        raise ValueError(f"radius {radius} is not a distance; it must be at least 0")
    threshold = 1 - min(radius, _MAX_DISTANCE) ** 2 / 2 - _RADIUS_SLACK
    i, j, similarity = threshold_join(
        left, right, max(threshold, -1), memory_budget=memory_budget, threads=threads, device=device
    )
    distance = distances(similarity)
    within = distance <= radius
    return i[within], j[within], distance[within]


def top_k(
    queries: Rows,
    references: Rows,
    k: int,
    *,
    min_similarity: Doubles | float = -np.inf,
    memory_budget: int = MEMORY_BUDGET,
    threads: int | None = None,
    device: str | None = None,
) -> tuple[Indices, Doubles]:
    """The k references of greatest cosine for every query.

    Args:
        queries: (n, d) float32 unit rows, or rows of `prepare_rows`.
        references: (m, d) the same.
        k: how many, at least 1.
        min_similarity: cosine, inclusive, below which references do not count: one for all
            queries, or (n,) one for each. The higher, the faster.
        memory_budget: bytes for working memory beside the inputs and the result.
        threads: how many threads; default: one on each core that the process may use.
        device: auto, cpu, cuda or cuda:N; default: auto, a GPU for a large join if there is one.

    Returns:
        Row numbers of the references (n, k) int64 and cosines (n, k) float64, the greatest
        first and ties by lower row number; -1 and NaN where there are fewer than k.

    Raises:
        ValueError: for k or threads below 1, arrays of different width, a device that is not
            there, or a row that is not a finite unit vector; the message names the row.
    """
    require_k(k)
    names = ("queries", "references")
    with use_threads(threads), use_device(device):
        inputs = InputPair.of(
            JoinInput.of(queries, names[0]), JoinInput.of(references, names[1]), names
        )
        count = len(inputs.left.unit.rows)
        minimum = np.broadcast_to(np.asarray(min_similarity, dtype=np.float64), count)
        return nearest(inputs, k, minimum, memory_budget=memory_budget)


def cosine_matrix(left: NDArray[np.floating], right: NDArray[np.floating]) -> Doubles:
    """All cosines of two small sets of rows, equal to those of `threshold_join`.

    Args:
        left: (n, d) float32 unit rows.
        right: (m, d) float32 unit rows.

    Returns:
        (n, m) float64 cosines.

    Raises:
        ValueError: as `threshold_join` does.
    """
    inputs = InputPair.of(JoinInput.of(left, "left"), JoinInput.of(right, "right"))
    a, b = inputs.left.unit, inputs.right.unit
    i, j = np.indices((len(a.rows), len(b.rows))).reshape(2, -1)
    scores = pair_cosines(a.rows, b.rows, i, j, squares=(a.squares, b.squares))
    return scores.reshape(len(a.rows), len(b.rows))


def require_threshold(threshold: float) -> None:
    """Raise ValueError for a threshold that is not a cosine."""
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} is not a cosine; it must lie in [-1, 1]")


def require_k(k: int) -> None:
    """Raise ValueError for less than one neighbor."""
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")


def pairs_above(
    inputs: InputPair,
    threshold: float,
    *,
    memory_budget: int = MEMORY_BUDGET,
    shared: SharedPrefilter | None = None,
) -> tuple[Indices, Indices, Doubles]:
    """`threshold_join` of validated inputs; `shared` is the prefilter of several joins."""
    # The longer input is cut into row blocks, which are released one by one.
    swap = len(inputs.left) < len(inputs.right)
    ordered = inputs.swapped() if swap else inputs
    i, j, similarity = or_on_cpu(
        lambda: _unique_pairs_above(ordered, threshold, memory_budget, shared)
    )
    if swap:
        i, j = j, i
    i, j, similarity = expand_duplicates(i, j, similarity, inputs.left.unique, inputs.right.unique)
    order = np.lexsort((j, -similarity, i))
    return i[order], j[order], similarity[order]


def _unique_pairs_above(
    inputs: InputPair, threshold: float, memory_budget: int, shared: SharedPrefilter | None
) -> tuple[Indices, Indices, Doubles]:
    """The pairs of unique rows, in no order."""
    max_pairs = max_candidates(memory_budget)

    def choose() -> Prefilter:
        if shared is not None:
            return shared.for_threshold(inputs, threshold)
        return choose_for_threshold(inputs, threshold)

    def matches(block: RowBlock) -> list[tuple[Indices, Indices, Doubles]]:
        found = []
        for tile in block.tiles:
            for i, j, _ in tile.candidates(threshold, max_pairs):
                cosines = inputs.cosines(i, j)
                within = cosines >= threshold
                found.append((i[within], j[within], cosines[within]))
        return found

    pairs = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for of_block in scan(inputs, choose, memory_budget, matches):
        pairs += of_block
    i, j, similarity = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return i, j, similarity
