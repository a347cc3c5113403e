"""The pairs that a person is asked to judge."""

from __future__ import annotations

import io
import shutil
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from imgsim_assets.errors import StoreError
from imgsim_assets.pipeline.decisions import record_decisions
from imgsim_assets.pipeline.match import MatchPipeline
from imgsim_assets.pipeline.review_pairs import (
    informative_pairs,
    judged_matches,
    match_precision,
    random_matches,
)
from imgsim_assets.pipeline.settings import MatchMatrixSettings
from imgsim_assets.storage.store import Store
from imgsim_assets_tests.support.catalogs import THUMBNAIL, indexed, tiny, turned

_NOW = datetime(2026, 5, 31, 12, tzinfo=UTC)
_COLUMNS = ["left_id", "right_id", "left_sha256", "right_sha256"]


def _run(store: Store, threshold: float = 0.5) -> None:
    settings = MatchMatrixSettings(name="pair", left="ours", right="theirs", threshold=threshold)
    MatchPipeline(store, settings).run()


def _judge(store: Store, pairs: pl.DataFrame, verdict: str) -> None:
    rows = [row | {"verdict": verdict} for row in pairs.select(_COLUMNS).to_dicts()]
    record_decisions(store, "pair", rows, "ann", _NOW)


@pytest.fixture
def copies(store: Store) -> Store:
    """Twelve pairs of copies."""
    indexed(store, "ours", {f"o{n}": tiny(n) for n in range(12)})
    indexed(store, "theirs", {f"t{n}": tiny(50 + n, like=n) for n in range(12)})
    _run(store)
    return store


@pytest.fixture
def angles(store: Store) -> Store:
    """Left items at 0, 10, ... 80 degrees to the right one."""
    indexed(store, "ours", {f"{angle:02}": turned(angle) for angle in range(0, 90, 10)})
    indexed(store, "theirs", {"t": turned(0)})
    _run(store, threshold=0.7)
    return store


def test_random_matches_are_each_drawn_once_and_give_the_precision(copies: Store) -> None:
    first = random_matches(copies, "pair", 10)
    assert match_precision(copies, "pair") is None

    _judge(copies, first.head(9), "match")
    _judge(copies, first.tail(1), "different")
    _run(copies)
    rest = random_matches(copies, "pair", 10)

    assert (first.height, rest.height) == (10, 2)
    assert not rest.join(first, on=["left_id", "right_id"], how="semi").height
    measured = match_precision(copies, "pair")
    assert measured is not None
    # The pair that was removed belongs to the population.
    assert (measured.population, measured.sampled, measured.value) == (12, 10, 0.9)


def test_evaluation_of_either_catalog_shows_what_decisions_measure(copies: Store) -> None:
    assert judged_matches(copies, "ours") == []

    _judge(copies, random_matches(copies, "pair", 12), "match")

    (row,) = judged_matches(copies, "ours")
    assert judged_matches(copies, "theirs") == [row]
    assert judged_matches(copies, "others") == []
    assert (row["matches"], row["precision"], row["sample"]) == ("pair", 1.0, 12)
    # All matches are judged, which leaves nothing uncertain.
    assert (row["precision_low"], row["precision_high"]) == (1.0, 1.0)


def test_pair_with_another_image_must_be_judged_again(copies: Store) -> None:
    _judge(copies, random_matches(copies, "pair", 12), "match")
    images = {f"o{n}": tiny(n) for n in range(12)}
    indexed(copies, "ours", images | {"o3": tiny(90, like=3)})
    _run(copies)

    assert random_matches(copies, "pair", 12)["left_id"].to_list() == ["o3"]


def test_matches_by_a_decision_below_the_threshold_are_not_drawn(angles: Store) -> None:
    pair = informative_pairs(angles, "pair", 2).tail(1)
    matches = random_matches(angles, "pair", 99)
    _judge(angles, pair, "match")
    _run(angles, threshold=0.7)

    assert pair["similarity"].item() < 0.7
    assert random_matches(angles, "pair", 99).equals(matches)


def test_informative_pairs_are_the_nearest_to_the_threshold_on_both_sides(angles: Store) -> None:
    pairs = informative_pairs(angles, "pair", 4)

    # The cosine of 45 degrees is .707.
    assert pairs["left_id"].to_list() == ["40", "50", "30", "60"]
    assert pairs["left_sha256"].null_count() == 0
    _judge(angles, pairs.head(1), "different")
    _judge(angles, pairs.slice(1, 1), "unsure")
    assert informative_pairs(angles, "pair", 2)["left_id"].to_list() == ["30", "60"]


def test_catalog_that_is_matched_with_itself_has_each_pair_once(store: Store) -> None:
    indexed(store, "ours", {"a": tiny(1), "b": tiny(2, like=1), "c": tiny(7), "d": tiny(8)})
    settings = MatchMatrixSettings(
        name="pair", left="ours", right="ours", threshold=0.7, mode="top_k", k=2
    )
    MatchPipeline(store, settings).run()

    assert random_matches(store, "pair", 9).select("left_id", "right_id").rows() == [("a", "b")]
    below = informative_pairs(store, "pair", 9).tail(-1)
    assert below.height == below.select(pl.struct(_COLUMNS[:2])).unique().height > 0
    assert (below["left_id"] < below["right_id"]).all()


def test_variant_is_found_by_the_name_of_its_table(copies: Store) -> None:
    settings = MatchMatrixSettings(name="other", left="ours", right="theirs", threshold=0.5)
    MatchPipeline(copies, settings, variant="ab12").run()

    assert random_matches(copies, "other", 99).height == 12
    with pytest.raises(StoreError, match="has no match table 'nobody'; it has other, pair"):
        random_matches(copies, "nobody", 1)


def test_pairs_below_the_threshold_are_compared_over_the_orientations(store: Store) -> None:
    body = io.BytesIO()
    copy = Image.open(io.BytesIO(tiny(60, like=1))).transpose(Image.Transpose.ROTATE_180)
    copy.save(body, "PNG")
    indexed(store, "ours", {"a": tiny(1), "b": tiny(2)})
    indexed(store, "theirs", {"t": body.getvalue()})
    settings = MatchMatrixSettings(
        name="pair", left="ours", right="theirs", threshold=0.999, orientations=True
    )
    MatchPipeline(store, settings, encoders={"ours": THUMBNAIL}).run()

    pairs = informative_pairs(store, "pair", 1)

    assert pairs["left_id"].to_list() == ["a"]
    assert 0.8 < pairs["similarity"].item() < 0.999


def test_a_table_that_was_computed_again_at_the_same_version_gives_its_new_pairs(
    copies: Store,
) -> None:
    assert random_matches(copies, "pair", 99).height == 12
    shutil.rmtree(Path(copies.url) / "matches")
    indexed(copies, "ours", {f"o{n}": tiny(n) for n in range(5)})
    _run(copies)

    assert copies.table("matches/pair").versions() == [1]
    assert random_matches(copies, "pair", 99).height == 5
