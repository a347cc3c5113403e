"""The expected false matches of a match table at any threshold, from what its catalogs measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT
from imgsim_assets.evaluation.operating_points import BEST_DIFFERENT
from imgsim_assets.similarity.calibration import BUDGET, calibration_table
from imgsim_assets.similarity.evaluation_table import evaluation_table
from imgsim_assets.storage.store import Store

SCHEMA = {"threshold": pl.Float64, "rate": pl.Float64}


class FalseMatchRates(NamedTuple):
    """The fraction of the left items that get a false best match, by threshold.

    Attributes:
        rows: a frame of SCHEMA, by rising threshold; without rows where nothing was measured.
        source: what measured them, in words.
    """

    rows: pl.DataFrame
    source: str


def false_match_rates(
    store: Store, catalogs: Iterable[str], fingerprint: str, searched: int
) -> FalseMatchRates:
    """The highest rates that the catalogs measured, for a search among some items.

    The encoder evaluations have rates for all thresholds. Without them, the measured thresholds
    have rates up to their budget, which are upper bounds.

    Args:
        store: holds the catalogs.
        catalogs: the left and the right catalog.
        fingerprint: of their encoder; measurements of other encoders are passed over.
        searched: the number of items that each item is compared with.
    """
    names = list(dict.fromkeys(catalogs))
    for read, source in (
        (_of_evaluation, "the encoder evaluation of"),
        (_of_thresholds, "the measured thresholds of"),
    ):
        frames = {name: read(store, name, fingerprint, searched) for name in names}
        measured = {name: frame for name, frame in frames.items() if frame.height}
        if measured:
            return FalseMatchRates(
                _highest(measured.values()), f"{source} {' and '.join(measured)}"
            )
    return FalseMatchRates(pl.DataFrame(schema=SCHEMA), "not measured")


def _of_evaluation(store: Store, name: str, fingerprint: str, searched: int) -> pl.DataFrame:
    table = evaluation_table(store, name)
    commit = table.latest()
    if commit is None or commit.properties[FINGERPRINT] != fingerprint:
        return pl.DataFrame(schema=SCHEMA)
    rows = table.read(commit).filter(pl.col("perturbation") == BEST_DIFFERENT)
    # Among more items than were compared, a false match is more likely.
    ratio = pl.max_horizontal(searched / pl.col("count").clip(1), pl.lit(1.0))
    return rows.select("threshold", rate=1 - (1 - pl.col("recall")) ** ratio).sort("threshold")


def _of_thresholds(store: Store, name: str, fingerprint: str, searched: int) -> pl.DataFrame:
    """A threshold that keeps the budget among more items has a lower rate among these."""
    table = calibration_table(store, name)
    commit = table.latest()
    if commit is None or commit.properties[FINGERPRINT] != fingerprint:
        return pl.DataFrame(schema=SCHEMA)
    budget = commit.properties[BUDGET]
    rate = 1 - (1 - budget) ** (searched / pl.col("size"))
    rows = table.read(commit).select("threshold", rate=rate)
    return rows.group_by("threshold").agg(pl.col("rate").min()).sort("threshold")


def _highest(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """At each threshold the highest rate of any frame, that of the next lower threshold of it."""
    frames = list(frames)
    thresholds = (
        pl.concat([frame.select("threshold") for frame in frames]).unique().sort("threshold")
    )
    aligned = [
        thresholds.join_asof(frame, on="threshold", strategy="backward")["rate"].alias(str(number))
        for number, frame in enumerate(frames)
    ]
    rates = pl.DataFrame(aligned)
    return thresholds.with_columns(rates.max_horizontal().alias("rate")).drop_nulls()
