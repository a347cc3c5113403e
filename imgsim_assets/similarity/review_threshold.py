"""The threshold that decisions give a match table: the tables `thresholds/<name>`.

A new estimate replaces the stored one only when it is outside the stored interval, so that one more
decision does not change every result.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl

from imgsim_assets.errors import CorruptFileError
from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.sample import drawn_and_judged, in_random_order
from imgsim_assets.reviews.table import DIFFERENT, MATCH, PAIR, UNSURE
from imgsim_assets.similarity.candidates import best_candidates, sampled_keys
from imgsim_assets.similarity.decided import score_pairs
from imgsim_assets.similarity.decided_threshold import (
    MIN_PAIRS,
    DecidedThreshold,
    MeasuredThreshold,
    threshold_by_decisions,
)
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.threshold import ResolvedThreshold
from imgsim_assets.storage.commit import Commit, PendingCommit
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

THRESHOLDS = "thresholds"
# Products that are computed at most to find the best pairs.
MAX_PRODUCTS = 200_000_000
# Increment when the same decisions give another threshold.
_VERSION = 2
# Property of the commits of match tables: whether decisions gave their threshold.
BY_DECISIONS = "by_decisions"
_RECIPE, _CONTEXT = "recipe", "context"
_LABELS = {MATCH: 1.0, DIFFERENT: 0.0, UNSURE: 0.5}


class JudgedBudget(NamedTuple):
    """What a threshold is resolved for.

    Attributes:
        name: of the match table, with a variant.
        measured: the threshold as measured without decisions.
        budget: the accepted fraction of left items with a false match.
        fingerprint: of the encoder.
    """

    name: str
    measured: ResolvedThreshold
    budget: float
    fingerprint: str


def review_thresholds(store: Store, name: str) -> Table:
    """`thresholds/<name>`: one row, the fields of `DecidedThreshold`."""
    return store.table(f"{THRESHOLDS}/{name}")


def resolve_by_decisions(
    store: Store, asked: JudgedBudget, left: Items, right: Items, decisions: Decisions
) -> tuple[ResolvedThreshold, DecidedThreshold | None]:
    """The threshold that decisions give, where there are enough of them.

    Args:
        store: the store of the match table.
        asked: the match table, its measured threshold and budget.
        left: the left rows.
        right: the right rows.
        decisions: about them.

    Returns:
        The threshold, and how decisions gave it; None where the measured one stays.
    """
    told = decisions.standing["verdict"].is_in([MATCH, DIFFERENT]).sum()
    if not asked.measured.is_auto or told < MIN_PAIRS:
        return asked.measured, None
    table = review_thresholds(store, asked.name)
    latest = table.latest()
    context = [_VERSION, asked.fingerprint, asked.budget]
    keys = [rows_digest(items.keys.select("id", "sha256")) for items in (left, right)]
    recipe = [*context, asked.measured.value, asked.measured.slope, decisions.digest, *keys]
    stored = _read(table, latest)
    if stored is None or latest is None or latest.properties[_RECIPE] != recipe:
        estimate = _estimate(asked, left, right, decisions)
        if estimate is None:
            return asked.measured, None
        is_comparable = latest is not None and latest.properties[_CONTEXT] == context
        stored = _kept(stored if is_comparable else None, estimate)
        file = table.write_rows(pl.DataFrame([asdict(stored)]))
        pending = PendingCommit([file], properties={_RECIPE: recipe, _CONTEXT: context})
        table.commit(partial(_always, pending))
    around = f"{stored.pairs} judged pairs around it"
    budget, without = f"{asked.budget * 100:g} %", f"{asked.measured.value:g} without them"
    source = (
        f"auto: at most {budget} of the left items get a false match, as {around} tell; {without}"
    )
    if not stored.is_within:
        source = (
            f"auto: the highest of {around}, which are too often different for {budget} of false "
            f"matches; judge pairs above it; {without}"
        )
    resolved = ResolvedThreshold(stored.value, source, stored.is_within, is_auto=True)
    return resolved, stored


def latest_threshold(store: Store, name: str) -> DecidedThreshold | None:
    """The threshold that decisions gave a match table last; None where they never did."""
    table = review_thresholds(store, name)
    return _read(table, table.latest())


def threshold_of(store: Store, matches: Commit) -> DecidedThreshold | None:
    """How decisions gave the threshold of a version of a match table; None where they did not."""
    if not matches.properties.get(BY_DECISIONS):
        return None
    found = latest_threshold(store, matches.table.partition("/")[2])
    is_used = found is not None and found.value == matches.properties["threshold"]
    return found if is_used else None


def best_pairs(left: Items, right: Items) -> pl.DataFrame:
    """The best right item of each left item, of a large catalog of a fixed sample of them.

    Returns:
        The columns of `item_pairs.SCHEMA`, by rising similarity.
    """
    count = max(1, MAX_PRODUCTS // max(1, len(right)))
    chosen = sampled_keys(left.keys, count)["id"].unique()
    sample = left.where(left.keys["id"].is_in(chosen.implode()).to_numpy())
    pairs = best_candidates(sample, right, chosen.clear(), max_products=MAX_PRODUCTS)
    return score_pairs(pairs.select(PAIR), left, right).sort("similarity", *PAIR)


def _estimate(
    asked: JudgedBudget, left: Items, right: Items, decisions: Decisions
) -> DecidedThreshold | None:
    pairs = best_pairs(left, right)
    verdicts = decisions.standing.select(*PAIR, "verdict")
    judged = pairs.join(verdicts, on=PAIR, how="left", maintain_order="left")
    above = in_random_order(judged.filter(pl.col("similarity") >= asked.measured.value))
    sample = above.head(drawn_and_judged(above["verdict"].to_list())).select(*PAIR)
    is_drawn = judged.select(PAIR).join(
        sample.with_columns(pl.lit(value=True).alias("is_drawn")),
        on=PAIR,
        how="left",
        maintain_order="left",
    )["is_drawn"]
    label = judged["verdict"].replace_strict(_LABELS, default=None, return_dtype=pl.Float64)
    return threshold_by_decisions(
        pairs["similarity"].to_numpy(),
        label.fill_null(np.nan).to_numpy(),
        is_drawn.fill_null(value=False).to_numpy(),
        MeasuredThreshold(asked.measured.value, asked.measured.slope),
        asked.budget,
    )


def _kept(stored: DecidedThreshold | None, estimate: DecidedThreshold) -> DecidedThreshold:
    """The estimate, with the stored threshold where the estimate is in its interval."""
    if stored is None or not stored.low <= estimate.value <= stored.high:
        return estimate
    if estimate.is_within and not stored.is_within:
        return estimate
    if not estimate.lowest <= stored.value <= max(estimate.highest, estimate.value):
        return estimate
    return replace(estimate, value=stored.value, low=stored.low, high=stored.high)


def _read(table: Table, commit: Commit | None) -> DecidedThreshold | None:
    if commit is None:
        return None
    try:
        return DecidedThreshold(**table.read(commit).row(0, named=True))
    except (CorruptFileError, TypeError):  # TypeError: of an earlier version
        return None


def _always(pending: PendingCommit, _: Commit | None) -> PendingCommit:
    return pending
