"""Matches of a catalog with itself, against brute force."""

from __future__ import annotations

import itertools
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsim_assets.errors import SettingsError
from imgsim_assets.pipeline.self_matches import pairs_once, with_room_for_self
from imgsim_assets.similarity.neighbor_lists import with_rank
from imgsim_assets.similarity.settings import MatchSettings

# Similarities of pairs of five items, with many ties; those below 0.5 do not match.
ITEMS = list("abcde")
PAIRS = list(itertools.combinations(ITEMS, 2))
SIMILARITIES = st.lists(
    st.sampled_from([0.0, 0.6, 0.8, 1.0]), min_size=len(PAIRS), max_size=len(PAIRS)
)
MODES = st.sampled_from(
    [{"mode": "all"}, {"mode": "best"}, {"mode": "mutual"}, {"mode": "top_k", "k": 2}]
)


@settings(max_examples=200, deadline=None)
@given(similarities=SIMILARITIES, mode=MODES)
def test_every_pair_is_there_once_and_no_item_matches_itself(
    similarities: list[float], mode: dict[str, Any]
) -> None:
    declared = MatchSettings(**mode)
    similarity = {(item, item): 1.0 for item in ITEMS}
    for (a, b), value in zip(PAIRS, similarities, strict=True):
        similarity[a, b] = similarity[b, a] = value

    rows = pairs_once(_table(similarity, with_room_for_self(declared)), declared)

    k = {"best": 1, "mutual": 1}.get(declared.mode, declared.k)
    best = {}
    for item in ITEMS:
        found = [(-similarity[item, other], other) for other in ITEMS if other != item]
        best[item] = [other for negative, other in sorted(found) if negative <= -0.5][:k]
    is_listed = {(a, b) for a in ITEMS for b in best[a]}
    if declared.mode == "mutual":
        is_listed = {(a, b) for a, b in is_listed if (b, a) in is_listed}
    expected = {(a, b) for a, b in is_listed if (b, a) not in is_listed or a < b}
    assert sorted(rows.select("left_id", "right_id").rows()) == sorted(expected)


def test_one_to_one_needs_two_lists() -> None:
    with pytest.raises(SettingsError, match="mode: one_to_one needs two different lists"):
        with_room_for_self(MatchSettings(mode="one_to_one"))


def _table(similarity: dict[tuple[str, str], float], stored: MatchSettings) -> pl.DataFrame:
    """The match table that the stage computes of these items with themselves."""
    rows = [(a, b, value) for (a, b), value in similarity.items() if value >= 0.5]
    frame = pl.DataFrame(rows, schema=["left_id", "right_id", "similarity"], orient="row")
    frame = frame.with_columns(pl.lit(None, pl.String).alias("verdict"))
    ranked = with_rank(
        frame.sort("left_id", "similarity", "right_id", descending=[False, True, False])
    )
    return ranked if stored.mode == "all" else ranked.filter(pl.col("rank") <= stored.k)
