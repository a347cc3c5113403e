"""The metadata about images that are not compared, and about those that perhaps should not be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from imgsim_assets.components import charts
from imgsim_assets.components.metadata import counts_table, preview, thumbnails
from imgsim_assets.similarity.selection import describe_common_images
from imgsim_assets.storage.store import Store

_SHOWN = 10
_THUMBNAILS = 4


def describe_left_out(
    store: Store, left_out: Mapping[str, int], shared: pl.DataFrame, common: pl.DataFrame
) -> dict[str, Any]:
    """What a person needs to know of the images that a result does not compare.

    Args:
        store: has the images.
        left_out: number of images by reason.
        shared: catalog, sha256 and items of the images that too many items have.
        common: of the images that are compared, those that most items have (`common_images`).

    Returns:
        Metadata; empty when every image is compared and none is common.
    """
    described: dict[str, Any] = {}
    if left_out:
        described["left_out_images"] = counts_table(left_out, "reason")
    if shared.height:
        described["shared_images"] = preview(shared, _SHOWN)
        images = shared["sha256"].unique(maintain_order=True).head(_THUMBNAILS)
        shown = thumbnails([charts.thumbnail(store, sha256) for sha256 in images], "shared images")
        if shown is not None:
            described["most_shared_images"] = shown
    if common.height:
        described["common_images"] = "\n".join(describe_common_images(common, "max_shared:"))
    return described
