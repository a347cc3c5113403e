"""The precision of matches, from a sample that is drawn at random."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from imgsim_assets.reviews.sample import BLOCK, in_random_order, measure_precision


def _pairs(count: int) -> pl.DataFrame:
    return pl.DataFrame({"left_id": [f"l{n}" for n in range(count)], "right_id": ["r"] * count})


def test_order_does_not_depend_on_the_order_of_the_rows_or_on_other_pairs() -> None:
    pairs = _pairs(50)

    of_all = in_random_order(pairs)
    of_some = in_random_order(pairs.reverse().filter(pl.col("left_id") != "l3"))

    assert in_random_order(pairs.reverse()).equals(of_all)
    assert of_some.equals(of_all.filter(pl.col("left_id") != "l3"))


def test_beginning_of_the_order_is_a_uniform_sample() -> None:
    pairs = _pairs(4000).with_row_index("number")

    first = in_random_order(pairs).head(400)["number"].to_numpy()

    in_tenths = np.bincount(first // 400, minlength=10)
    assert ((in_tenths - 40.0) ** 2 / 40).sum() < 27.9  # chi-squared, 9 degrees, p = .001


def test_interval_is_that_of_clopper_and_pearson() -> None:
    measured = measure_precision(["match"] * 18 + ["different"] * 2 + [None] * 500)

    assert measured is not None
    assert (measured.population, measured.sampled, measured.value) == (520, 20, 0.9)
    # Of 18 of 20, as in tables of the exact binomial interval.
    assert measured.low == pytest.approx(0.683, abs=5e-4)
    assert measured.high == pytest.approx(0.9877, abs=5e-5)


def test_unsure_pairs_widen_the_interval_in_both_directions() -> None:
    rest: list[str | None] = [None] * 100
    told = measure_precision(["match"] * 19 + ["different"] + rest)
    unsure = measure_precision(["match"] * 18 + ["different", "unsure"] + rest)

    assert told is not None
    assert unsure is not None
    assert (unsure.unsure, unsure.matches, unsure.different) == (1, 18, 1)
    assert unsure.low < told.low
    assert unsure.high == told.high


def test_sample_ends_at_the_first_pair_that_nobody_judged() -> None:
    verdicts = ["match"] * BLOCK + [None] + ["different"] * 50

    measured = measure_precision(verdicts)

    assert measured is not None
    assert (measured.sampled, measured.different) == (BLOCK, 0)


def test_pairs_of_a_block_that_is_not_complete_do_not_count() -> None:
    assert measure_precision(["different"] * (BLOCK - 1) + [None] * 10) is None


def test_precision_of_matches_that_are_all_judged_is_known() -> None:
    measured = measure_precision(["match", "match", "unsure", "different"])

    assert measured is not None
    assert (measured.low, measured.high) == (0.5, 0.75)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_judging_other_pairs_does_not_bias_the_sample(rate: float) -> None:
    """Somebody judges all pairs near the threshold, where most are different, and then some."""
    rng = np.random.default_rng(0)
    counts = np.zeros(2)
    for _ in range(300):
        is_near = rng.random(400) < rate
        is_match = rng.random(400) >= np.where(is_near, 0.8, 0.1)
        drawn = int(rng.integers(BLOCK, 60))
        verdicts = [
            ("match" if match else "different") if near or position < drawn else None
            for position, (near, match) in enumerate(zip(is_near, is_match, strict=True))
        ]
        measured = measure_precision(verdicts)
        assert measured is not None
        counts += (measured.matches, measured.sampled)

    true = 0.2 * rate + 0.9 * (1 - rate)
    assert counts[0] / counts[1] == pytest.approx(true, abs=0.02)
