"""How long an exact computation takes, which a run tells before a long one begins."""

from __future__ import annotations

from imgsim_assets.progress import Log
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.materialized import MaterializedResult
from imgsim_assets.similarity.settings import APPROXIMATE, METHOD
from imgsim_assets.similarity.threads import worker_count

# Fewer pairs of images are compared in minutes.
LARGE_JOIN = 10**11
# Numbers of pairs of vectors that a core compares in a second, by benchmarks/similarity.py.
_NUMBERS_PER_SECOND = 8e10


def exact_seconds(left: Items, right: Items) -> float:
    """The estimated time of comparing all pairs of images on the cores of this process."""
    return len(left) * len(right) * right.blocks.dim / _NUMBERS_PER_SECOND / worker_count()


def warn_of_exact_search(
    result: MaterializedResult, left: Items, right: Items, log: Log
) -> float | None:
    """Tell how long the exact computation of a large result takes.

    Returns:
        The estimated seconds; None for an approximate result, an update and fewer than 1e11 pairs.
    """
    is_update = result.reusable is not None
    if result.properties[METHOD] == APPROXIMATE or is_update or len(left) * len(right) < LARGE_JOIN:
        return None
    seconds = exact_seconds(left, right)
    log(
        f"warning: comparing {len(left):,} x {len(right):,} images exactly takes about "
        f"{seconds / 60:,.0f} minutes on {worker_count()} cores; 'method: {APPROXIMATE}' takes a "
        "fraction of it and measures what it misses"
    )
    return seconds
