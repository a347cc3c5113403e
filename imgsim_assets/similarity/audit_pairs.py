"""Whether committed pairs have the similarity and the images that brute force gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.similarity.audit_scores import TOLERANCE, ScoredItems
from imgsim_assets.similarity.items import LEFT_OUT, ORIENTATION
from imgsim_assets.similarity.materialized import read_role
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.table import Table


def wrong_pairs(
    rows: pl.DataFrame,
    sampled: ScoredItems,
    right: ScoredItems,
    of_sample: NDArray[np.float64],
    threshold: float,
    *,
    may_miss: bool = False,
) -> list[str]:
    """The pairs of sampled items with another similarity, or with images that are not the best.

    Pairs below the threshold are left to the comparison of pairs.

    Args:
        rows: the committed pairs.
        sampled: the sampled left items.
        right: all right items.
        of_sample: the similarity of each sampled item with each right item.
        threshold: minimum similarity.
        may_miss: the rows are approximate: the best images of two items may have been missed, so
            that a similarity need only be that of the images that the pair names.
    """
    left_at, right_at = (
        {item: position for position, item in enumerate(side.ids)} for side in (sampled, right)
    )
    wrong = []
    of_sampled = rows.filter(pl.col("left_id").is_in(sampled.ids))
    columns = ["left_id", "right_id", "similarity"]
    if "left_sha256" in rows.columns:  # graphs of earlier versions name no images
        columns += ["left_sha256", "right_sha256"]
    if ORIENTATION in rows.columns:
        columns.append(ORIENTATION)
    for left_id, right_id, similarity, *images in of_sampled.select(columns).iter_rows():
        i, j = left_at[left_id], right_at.get(right_id)
        if j is None or of_sample[i, j] < threshold - TOLERANCE:
            continue
        if not may_miss and abs(similarity - of_sample[i, j]) > TOLERANCE:
            wrong.append(f"similarity: {left_id} {right_id}")
            continue
        if not images:
            continue
        products = sampled.vectors_of(i) @ right.vectors_of(j).T
        left_sha256, right_sha256, orientation = [*images, None][:3]
        named = [
            sampled.named_rows(i, left_sha256, orientation),
            right.named_rows(j, right_sha256, None),
        ]
        of_named = products[np.ix_(*named)]
        if may_miss:
            if not of_named.size or abs(of_named.max() - similarity) > TOLERANCE:
                wrong.append(f"similarity: {left_id} {right_id}")
            continue
        if not of_named.size or of_named.max() < products.max() - TOLERANCE:
            wrong.append(f"images: {left_id} {right_id}")
    return wrong


def wrong_selection(
    table: Table, commit: Commit, role: str, settings: Mapping[str, Any]
) -> list[str]:
    """The images that `max_shared` should leave out and does not, or the reverse."""
    limit = settings.get("max_shared")
    recorded = read_role(table, commit, role) if limit is not None else None
    if recorded is None or limit is None:
        return []
    if LEFT_OUT not in recorded.columns:
        recorded = recorded.with_columns(pl.lit(None, pl.String).alias(LEFT_OUT))
    carriers: dict[str, set[str]] = {}
    for item, sha256 in recorded.select("id", "sha256").iter_rows():
        carriers.setdefault(sha256, set()).add(item)
    wrong = []
    for item, sha256, reason in recorded.select("id", "sha256", LEFT_OUT).iter_rows():
        is_shared = len(carriers[sha256]) > limit
        if is_shared != (reason == "shared") and reason in (None, "shared"):
            wrong.append(f"shared: {item}")
    return wrong
