"""What a run tells before a long exact computation begins."""

from __future__ import annotations

import polars as pl

from imgsim_assets.progress import Log
from imgsim_assets.similarity.approximate.estimate import describe_exact_time, exact_seconds
from imgsim_assets.similarity.items import VALUE, Items
from imgsim_assets.similarity.materialized import MaterializedResult
from imgsim_assets.similarity.settings import APPROXIMATE, METHOD


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
    seconds = exact_seconds(pairs, right.blocks.dim)
    if seconds is not None:
        log(
            f"warning: comparing {pairs:,} pairs of images exactly takes "
            f"{describe_exact_time(seconds)}; 'method: {APPROXIMATE}' takes a fraction of it and "
            "measures what it misses"
        )
    return seconds


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
