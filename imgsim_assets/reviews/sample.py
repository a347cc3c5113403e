"""Precision of matches from a random sample that people judge bit by bit.

All matches are put in an order by a keyed hash of their ids, which is a random permutation that
never changes: what people see and decide has no influence on it. The sample is the beginning of
that order, as far as it is judged. Pairs that somebody judged for another reason, such as those
near the threshold, are in it only where the order would have drawn them.

The end of the sample could still be biased, since a pair behind it may be judged for another
reason. So only whole blocks of the order count, unless it is judged to its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.table import DIFFERENT, MATCH, PAIR

# Pairs of a block.
BLOCK = 10
_CONFIDENCE = 0.95
_KEY = b"imgsim precision sample 1"


@dataclass(frozen=True)
class Precision:
    """The fraction of matches that are true, from a random sample of them.

    Attributes:
        population: pairs that match before decisions.
        sampled: pairs of the sample.
        matches: those that were judged a match.
        different: those that were judged different.
        unsure: those of which nobody could tell.
        low, high: the 95 % interval, which holds whatever the unsure pairs are: the lower end
            counts them as different, and the upper end as matches.
    """

    population: int
    sampled: int
    matches: int
    different: int
    unsure: int
    low: float
    high: float

    @property
    def value(self) -> float | None:
        """The fraction of matches among the pairs that were told apart; None without any."""
        told = self.matches + self.different
        return self.matches / told if told else None


def in_random_order(pairs: pl.DataFrame) -> pl.DataFrame:
    """Pairs (left_id, right_id, ...) in the order in which they are drawn."""
    hashes = [
        hashlib.blake2b(f"{left}\0{right}".encode(), key=_KEY, digest_size=8).hexdigest()
        for left, right in pairs.select(PAIR).iter_rows()
    ]
    order = pl.Series("__hash", hashes, pl.String)
    return pairs.with_columns(order).sort("__hash", *PAIR).drop("__hash")


def precision_of(in_order: pl.DataFrame, decisions: Decisions) -> Precision | None:
    """The precision of matches in random order; None before enough of them are judged."""
    standing = decisions.standing.select(*PAIR, "verdict")
    judged = in_order.select(PAIR).join(standing, on=PAIR, how="left", maintain_order="left")
    return measure_precision(judged["verdict"].to_list())


def drawn_and_judged(verdicts: Sequence[str | None]) -> int:
    """How many pairs the sample has, of verdicts in random order; None where nobody has judged."""
    judged = next((n for n, verdict in enumerate(verdicts) if verdict is None), len(verdicts))
    return judged if judged == len(verdicts) else judged - judged % BLOCK


def measure_precision(verdicts: Sequence[str | None]) -> Precision | None:
    """The precision of matches.

    Args:
        verdicts: of all matches before decisions, in random order; None where nobody has judged.

    Returns:
        None before the first block is judged.
    """
    sampled = drawn_and_judged(verdicts)
    if not sampled:
        return None
    sample = verdicts[:sampled]
    matches, different = sample.count(MATCH), sample.count(DIFFERENT)
    unsure = sampled - matches - different
    if sampled == len(verdicts):  # nothing was drawn: all are known
        low, high = matches / sampled, (matches + unsure) / sampled
    else:
        low = clopper_pearson(matches, sampled)[0]
        high = clopper_pearson(matches + unsure, sampled)[1]
    return Precision(len(verdicts), sampled, matches, different, unsure, low, high)


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """The exact binomial interval of Clopper and Pearson (1934)."""
    from scipy.special import betaincinv

    tail = (1 - _CONFIDENCE) / 2
    low = betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    is_all = successes == trials
    high = 1.0 if is_all else betaincinv(successes + 1, trials - successes, 1 - tail)
    return float(low), float(high)
