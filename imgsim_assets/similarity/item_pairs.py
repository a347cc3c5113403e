"""Pairs of rows to pairs of items: each by its best pair of images."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from imgsim_assets.similarity.items import ORIENTATION, Items
from imgsim_assets.similarity.listed_images import ListedImages
from imgsim_assets.similarity.neighbor_lists import position_in_list
from imgsim_assets.similarity.reusable_lists import SCHEMA as ROW_SCHEMA

SCHEMA = {
    **ROW_SCHEMA,
    "left_image": pl.Int32,
    "right_image": pl.Int32,
    "left_sha256": pl.String,
    "right_sha256": pl.String,
}
_ORDER = ["left_id", "similarity", "right_id"]
_DESCENDING = [False, True, False]
_SIDES = ("left", "right")


def item_pairs(
    rows: pl.DataFrame, left: Items, right: Items | ListedImages, k: int | None = None
) -> pl.DataFrame:
    """The pairs of items that pairs of rows imply.

    Args:
        rows: neighbor lists of the rows.
        left: the left rows.
        right: the right rows, or those of the pairs.
        k: the greatest number of pairs of a left item; None for all.

    Returns:
        See SCHEMA: of each pair of items the best pair of images, ties by left_image and
        right_image, sorted by left_id, falling similarity and right_id. Where one side is turned,
        also the orientation of its image, by which ties are decided first.
    """
    pairs = rows.select(list(ROW_SCHEMA))
    has_several = left.max_images > 1 or right.max_images > 1
    if not has_several:
        pairs = best_of_each(pairs, k)
    for side, items in (("left", left), ("right", right)):
        images = items.images_of(pairs[f"{side}_id"]).select(
            pl.col("row_id").alias(f"{side}_id"),
            pl.col("id").alias(f"{side}_item"),
            pl.col("image").alias(f"{side}_image"),
            pl.col("sha256").alias(f"{side}_sha256"),
            *([ORIENTATION] if items.is_turned else []),
        )
        if not has_several:
            images = images.drop(f"{side}_item")
        pairs = pairs.join(images, on=f"{side}_id", how="left", maintain_order="left")
    if has_several:
        named = pairs.with_columns(pl.col(f"{side}_item").alias(f"{side}_id") for side in _SIDES)
        pairs = best_of_each(best_images(named), k)
    return pairs.select(list(pairs_schema(left, right)))


def pairs_schema(left: Items, right: Items | ListedImages) -> pl.Schema:
    """The columns of `item_pairs`."""
    is_turned = left.is_turned or right.is_turned
    return pl.Schema(SCHEMA | ({ORIENTATION: pl.Int8} if is_turned else {}))


def best_of_each(pairs: pl.DataFrame, k: int | None) -> pl.DataFrame:
    """The first k pairs of each left id, of pairs in order; None for all."""
    return pairs if k is None else pairs.filter(position_in_list() < k)


def in_order(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs by left_id, falling similarity and right_id."""
    return pairs.sort(_ORDER, descending=_DESCENDING)


def swapped(pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs with left and right exchanged; their order stays."""
    other = {"left": "right", "right": "left"}
    names = {
        f"{side}_{name}": f"{other[side]}_{name}"
        for side in _SIDES
        for name in ("id", "image", "sha256")
        if f"{side}_{name}" in pairs.columns
    }
    return pairs.rename(names).select(pairs.columns)


def best_images(
    pairs: pl.DataFrame, ties: Sequence[str] = ("left_image", "right_image")
) -> pl.DataFrame:
    """Of several pairs of images of two items, the one that decides; in order.

    Of equally similar pairs, one in an earlier orientation does, if there are several.

    Args:
        pairs: left_id and right_id of items, similarity, left_image, right_image, in any order.
        ties: the columns whose least values decide among equally similar pairs.
    """
    if ORIENTATION in pairs.columns:
        ties = [ORIENTATION, *ties]
    ranked = pairs.sort([*_ORDER, *ties], descending=[*_DESCENDING, *([False] * len(ties))])
    return ranked.unique(["left_id", "right_id"], keep="first", maintain_order=True)
