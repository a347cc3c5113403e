"""The similarity of items as a mean over images, `compare: mean_best`."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.images.orientation import ORIENTATIONS
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.item_pairs import in_order
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.listed_images import ListedImages
from imgsim_assets.similarity.vector_blocks import cosines

# Pairs of images that are scored at once.
_MAX_CELLS = 1 << 20
_COUNT = len(ORIENTATIONS)


def mean_best(
    pairs: pl.DataFrame, left: Items, right: Items | ListedImages, threshold: float
) -> pl.DataFrame:
    """Score pairs of items by the mean, over the left images, of the best right image.

    Of a left image in several orientations, the best one counts.

    The mean is at most the similarity of the best pair, so the pairs whose best images reach the
    threshold include all whose mean does.

    Args:
        pairs: pairs of items with their best images, as of `item_pairs`, at least those that
            reach the threshold.
        left: the left rows.
        right: the right rows, or those of the pairs.
        threshold: minimum of the mean, inclusive.

    Returns:
        The pairs that reach the threshold, in order, with the mean as similarity.
    """
    if not pairs.height:
        return pairs
    (left_start, left_count), (right_start, right_count) = (
        items.spans(pairs[f"{side}_id"]) for side, items in (("left", left), ("right", right))
    )
    means = np.empty(pairs.height)
    cells = np.cumsum(left_count * right_count)
    for part in np.split(np.arange(pairs.height), np.flatnonzero(np.diff(cells // _MAX_CELLS)) + 1):
        means[part] = _means(
            left, right, left_start[part], left_count[part], right_start[part], right_count[part]
        )
    # Rounding may lift the mean of equal numbers above them.
    means = np.minimum(means, pairs["similarity"].to_numpy())
    scored = pairs.with_columns(pl.Series("similarity", means))
    return in_order(scored.filter(pl.col("similarity") >= threshold))


def _means(
    left: Items,
    right: Items | ListedImages,
    left_start: Indices,
    left_count: Indices,
    right_start: Indices,
    right_count: Indices,
) -> Doubles:
    """The mean of the best of each left row, (p,)."""
    pair = np.repeat(np.arange(len(left_count)), left_count)
    i = _ranges(left_start, left_count)
    width = right_count[pair]
    j = _ranges(right_start[pair], width)
    scores = cosines(left.blocks, right.blocks, np.repeat(i, width), j)
    best: Doubles = np.maximum.reduceat(scores, np.cumsum(width) - width)
    if left.is_turned:
        # An item's rows are its images, each in all orientations.
        best, pair = best.reshape(-1, _COUNT).max(axis=1), pair[::_COUNT]
        left_count = left_count // _COUNT
    # Sums from left to right, so that the result does not depend on what is scored at once.
    means: NDArray[np.float64] = np.bincount(pair, weights=best) / left_count
    return means


def _ranges(start: Indices, count: Indices) -> Indices:
    """The numbers start, start + 1, ... of each range, one range after the other."""
    ends = np.cumsum(count)
    ranges: Indices = np.arange(ends[-1]) + np.repeat(start - (ends - count), count)
    return ranges
