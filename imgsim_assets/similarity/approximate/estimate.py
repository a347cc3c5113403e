"""How long an exact computation takes, which a run tells before a long one begins."""

from __future__ import annotations

import polars as pl

from imgsim_assets.progress import Log
from imgsim_assets.similarity.items import VALUE, Items
from imgsim_assets.similarity.materialized import MaterializedResult
from imgsim_assets.similarity.settings import APPROXIMATE, METHOD
from imgsim_assets.similarity.threads import worker_count

# Fewer pairs of images are compared in minutes.
LARGE_JOIN = 10**11
# Numbers of pairs of vectors that a core compares in a second, by benchmarks/similarity.py.
_NUMBERS_PER_SECOND = 8e10


def compared_pairs(left: Items, right: Items) -> int:
    """How many pairs of rows an exact computation compares."""
    if VALUE not in left.images.columns:
        return len(left) * len(right)
    counts = (
        pl.concat(rows for _, rows in items.images.blocks([VALUE])).group_by(VALUE).len("rows")
        for items in (left, right)
    )
    both = next(counts).join(next(counts), on=VALUE, suffix="_right")
    return int(both.select(pl.col("rows").cast(pl.Int64).dot("rows_right")).item() or 0)


def exact_seconds(pairs: int, dim: int) -> float:
    """The estimated time of comparing pairs of images on the cores of this process.

    Args:
        pairs: how many.
        dim: how many numbers a vector has.
    """
    return pairs * dim / _NUMBERS_PER_SECOND / worker_count()


def warn_of_exact_search(
    result: MaterializedResult, left: Items, right: Items, log: Log
) -> float | None:
    """Tell how long the exact computation of a large result takes.

    Returns:
        The estimated seconds; None for an approximate result, an update and fewer than 1e11 pairs.
    """
    if result.properties[METHOD] == APPROXIMATE or result.reusable is not None:
        return None
    pairs = compared_pairs(left, right)
    if pairs < LARGE_JOIN:
        return None
    seconds = exact_seconds(pairs, right.blocks.dim)
    log(f"warning: {describe_exact_search(pairs, seconds)}")
    return seconds


def describe_exact_search(pairs: int, seconds: float) -> str:
    """What is told of a large exact computation."""
    return (
        f"comparing {pairs:,} pairs of images exactly takes about {seconds / 60:,.0f} minutes on "
        f"{worker_count()} cores; 'method: {APPROXIMATE}' takes a fraction of it and measures what "
        "it misses"
    )
