"""A catalog that is matched with itself: every pair once, and no item with itself."""

from __future__ import annotations

from typing import TypeVar

import polars as pl

from imgsim_assets.errors import SettingsError
from imgsim_assets.reviews.table import MATCH
from imgsim_assets.similarity.neighbor_lists import with_rank
from imgsim_assets.similarity.settings import MatchSettings

S = TypeVar("S", bound=MatchSettings)
_PAIR = ["left_id", "right_id"]
# By mode, the matches of an item; None for all of them.
_BEST = {"best": 1, "mutual": 1}


def with_room_for_self(settings: S) -> S:
    """The settings of a match table of a catalog with itself, from which `pairs_once` selects.

    Among the k + 1 best items of an item are its k best others.

    Raises:
        SettingsError: mode one_to_one, which assigns the items of two different lists.
    """
    if settings.mode == "one_to_one":
        raise SettingsError("mode: one_to_one needs two different lists; use mutual for one list")
    if settings.mode == "all":
        return settings
    k = _BEST.get(settings.mode, settings.k)
    return settings.model_copy(update={"mode": "top_k", "k": (k or 0) + 1})


def pairs_once(rows: pl.DataFrame, settings: MatchSettings) -> pl.DataFrame:
    """The matches that the settings ask for, of a table by `with_room_for_self`.

    Args:
        rows: matches of a catalog with itself, by left_id and rank.
        settings: as declared.

    Returns:
        The rows without matches of an item with itself. Of two items that match each other one row
        is left, in which the item with the smaller id is the left one.
    """
    others = rows.filter(pl.col("left_id") != pl.col("right_id"))
    if settings.mode != "all":
        # What a person decided comes before the ranking, and is never cut.
        is_decided = pl.col("verdict").eq_missing(MATCH)
        best_first = with_rank(
            others.sort("left_id", is_decided, descending=[False, True], maintain_order=True)
        )
        others = best_first.filter(
            (pl.col("rank") <= _BEST.get(settings.mode, settings.k)) | is_decided
        )
    mirrored = others.select(
        pl.col("right_id").alias("left_id"), pl.col("left_id").alias("right_id")
    )
    both = others.join(mirrored, on=_PAIR, how="semi", maintain_order="left")
    ordered = both.filter(pl.col("left_id") < pl.col("right_id"))
    if settings.mode == "mutual":
        return with_rank(ordered)
    once = others.join(both, on=_PAIR, how="anti", maintain_order="left")
    kept = pl.concat([once, ordered]).sort(
        ["left_id", "similarity", "right_id"], descending=[False, True, False]
    )
    return with_rank(kept)
