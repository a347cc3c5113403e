"""The tabs of a review page: which pairs they show, in which order."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import polars as pl

from imgsim_assets.errors import StoreError
from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.sample import in_random_order
from imgsim_assets.reviews.table import DIFFERENT, MATCH, PAIR, UNSURE
from imgsim_assets.service.review_table import SIDES, ReviewTable
from imgsim_assets.similarity.cosine import pair_cosines
from imgsim_assets.similarity.evidence.accepted_pairs import COLUMNS as EVIDENCE_COLUMNS
from imgsim_assets.similarity.item_pairs import SCHEMA as PAIR_SCHEMA
from imgsim_assets.similarity.matches import match_table
from imgsim_assets.similarity.population import matches_before_decisions

_IMAGES = ("left_sha256", "right_sha256")
# What a pair has in every tab; the rest of a match row is null of a pair that is no match.
_COLUMNS = {**PAIR_SCHEMA, "rank": pl.Int32, **EVIDENCE_COLUMNS}


class Tab(StrEnum):
    """The pairs that a person looks at."""

    NEW = "new"
    NEAR = "near"
    RANDOM = "random"
    ALL = "all"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNSURE = "unsure"
    UNMATCHED = "unmatched"


_VERDICTS = {Tab.ACCEPTED: MATCH, Tab.REJECTED: DIFFERENT, Tab.UNSURE: UNSURE}


def tab_pairs(table: ReviewTable, tab: Tab, decisions: Decisions) -> pl.DataFrame:
    """The pairs of a tab in the order in which they are shown.

    Args:
        table: the match table.
        tab: which pairs.
        decisions: those that stand about the table.

    Returns:
        The columns of a match table but `verdict`. `rank` is null of a pair that is no match;
        the columns of the evidence are null where there is none.
    """
    if tab in _VERDICTS:
        return _decided(table, decisions, _VERDICTS[tab])
    return table.cached(tab, lambda: _TABS[tab](table))


def tab_count(table: ReviewTable, tab: Tab, decisions: Decisions) -> int | None:
    """How many pairs a tab has; None where that takes a comparison of all items."""
    if tab in _VERDICTS:
        return decisions.counts.get(_VERDICTS[tab], 0)
    if tab is Tab.UNMATCHED:
        return table.left.count - table.matched.height
    if tab is Tab.NEAR:
        return None
    return tab_pairs(table, tab, decisions).height


def candidates(table: ReviewTable, left_id: str, decisions: Decisions, limit: int) -> pl.DataFrame:
    """A left item's matches, decided pairs and nearest other items, the most similar first.

    Args:
        table: the match table.
        left_id: the item.
        decisions: those that stand about the table.
        limit: how many nearest items are among them.
    """
    left = table.left.items_of(pl.Series([left_id], dtype=pl.String))
    is_item = pl.col("left_id") == left_id
    judged = decisions.standing.filter(is_item)
    frames = [
        table.rows.filter(is_item),
        _judged_pairs(table, judged),
        table.nearest(left, limit),
    ]
    pairs = pl.concat([_completed(frame) for frame in frames]).unique(
        list(PAIR), keep="first", maintain_order=True
    )
    return with_similarity(table, pairs).sort(
        ["similarity", "right_id"], descending=[True, False], nulls_last=True
    )


def with_similarity(table: ReviewTable, pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs with the cosine of their images where they have no similarity."""
    missing = pairs.filter(pl.col("similarity").is_null(), pl.col("right_sha256").is_not_null())
    if not missing.height:
        return pairs
    (left, i), (right, j) = (
        table.side(side).vectors_of(missing[f"{side}_sha256"]) for side in SIDES
    )
    scored = missing.select(*PAIR).with_columns(
        pl.Series("scored", pair_cosines(left, right, i, j))
    )
    return (
        pairs.join(scored, on=list(PAIR), how="left", maintain_order="left")
        .select(
            *(name for name in pairs.columns if name != "similarity"),
            pl.coalesce("similarity", "scored").alias("similarity"),
        )
        .select(pairs.columns)
    )


def _all(table: ReviewTable) -> pl.DataFrame:
    order = ["similarity", "left_id", "right_id"]
    return _completed(table.rows).sort(order, descending=[True, False, False])


def _new(table: ReviewTable) -> pl.DataFrame:
    """The matches that the previous version did not have, or had with other images."""
    versions = match_table(table.store, table.name)
    earlier = [number for number in versions.versions() if number < table.commit.version]
    if not earlier:
        return _all(table)
    try:
        before = versions.read(versions.at(earlier[-1]), columns=[*PAIR, *_IMAGES])
    except StoreError:  # deleted meanwhile
        return _all(table)
    return _all(table).join(before, on=[*PAIR, *_IMAGES], how="anti", maintain_order="left")


def _near(table: ReviewTable) -> pl.DataFrame:
    """Matches, and the best pairs of items without a match, nearest to the threshold first."""
    pairs = pl.concat([_completed(table.rows), _unmatched_scored(table)])
    distance = (pl.col("similarity") - table.threshold).abs()
    return pairs.sort(distance, "left_id", "right_id")


def _random(table: ReviewTable) -> pl.DataFrame:
    """The matches before decisions, in the order in which a sample for the precision is drawn."""
    of_name = match_table(table.store, table.name)
    population = matches_before_decisions(of_name, table.commit, table.rows)
    ranked = table.rows.select(*PAIR, "rank", *_evidence_of(table.rows))
    drawn = in_random_order(population)
    return _completed(drawn.join(ranked, on=list(PAIR), how="left", maintain_order="left"))


def _unmatched(table: ReviewTable) -> pl.DataFrame:
    """Left items without a match, each with its nearest right item, the most similar first.

    Items whose nearest item is not known follow by id, without a right item.
    """
    scored = _unmatched_scored(table).sort(
        ["similarity", "left_id"], descending=[True, False], nulls_last=True
    )
    others = _unmatched_ids(table).join(scored, on="left_id", how="anti")
    first = table.left.keys.sort("id", "image").unique("id", keep="first")
    images = first.select(
        left_id="id", left_image=pl.col("image").cast(pl.Int32), left_sha256="sha256"
    )
    rest = others.join(images, on="left_id").sort("left_id")
    return pl.concat([scored, _completed(rest)])


_TABS: dict[Tab, Callable[[ReviewTable], pl.DataFrame]] = {
    Tab.NEW: _new,
    Tab.NEAR: _near,
    Tab.RANDOM: _random,
    Tab.ALL: _all,
    Tab.UNMATCHED: _unmatched,
}


def _evidence_of(rows: pl.DataFrame) -> list[str]:
    return [name for name in EVIDENCE_COLUMNS if name in rows.columns]


def _unmatched_ids(table: ReviewTable) -> pl.DataFrame:
    ids = table.left.keys.select(pl.col("id").alias("left_id")).unique()
    return ids.join(table.matched, on="left_id", how="anti")


def _unmatched_scored(table: ReviewTable) -> pl.DataFrame:
    scores = table.best_scores.join(table.matched, on="left_id", how="anti", maintain_order="left")
    return _completed(scores)


def _decided(table: ReviewTable, decisions: Decisions, verdict: str) -> pl.DataFrame:
    """The pairs with a verdict, the latest decision first."""
    judged = decisions.once(decisions.standing.filter(pl.col("verdict") == verdict))
    newest_first = judged.sort(["decided_at", *PAIR], descending=[True, False, False])
    return _judged_pairs(table, newest_first)


def _judged_pairs(table: ReviewTable, judged: pl.DataFrame) -> pl.DataFrame:
    """Pairs of decisions, as matches where they are some; others with the judged images."""
    numbered = judged.select(*PAIR, *_IMAGES)
    for side in SIDES:
        images = table.side(side).images.select(
            pl.col("id").alias(f"{side}_id"),
            pl.col("sha256").alias(f"{side}_sha256"),
            pl.col("image").cast(pl.Int32).alias(f"{side}_image"),
        )
        first = images.unique([f"{side}_id", f"{side}_sha256"], keep="first", maintain_order=True)
        numbered = numbered.join(
            first, on=[f"{side}_id", f"{side}_sha256"], how="left", maintain_order="left"
        )
    known = _completed(table.rows)
    found = numbered.join(known, on=list(PAIR), how="left", suffix="_match", maintain_order="left")
    is_match = pl.col("rank").is_not_null()
    shown = found.with_columns(
        pl.when(is_match).then(f"{name}_match").otherwise(name).alias(name)
        for name in ("left_image", "right_image", *_IMAGES)
    )
    return _completed(shown)


def _completed(pairs: pl.DataFrame) -> pl.DataFrame:
    """The columns that a pair has in every tab; null where it has none."""
    missing = [
        pl.lit(None, dtype).alias(name)
        for name, dtype in _COLUMNS.items()
        if name not in pairs.columns
    ]
    return pairs.with_columns(missing).select(list(_COLUMNS))
