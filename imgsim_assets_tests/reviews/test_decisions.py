from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.table import SCHEMA

_A, _B, _C = "a" * 64, "b" * 64, "c" * 64


def _review(verdict: str, left_sha256: str = _A, right_sha256: str = _B) -> pl.DataFrame:
    row = (
        "l",
        "r",
        left_sha256,
        right_sha256,
        verdict,
        "ann",
        None,
        datetime(2026, 1, 1, tzinfo=UTC),
        None,
    )
    return pl.DataFrame([row], schema=SCHEMA, orient="row")


def _images(item: str, *sha256: str) -> pl.DataFrame:
    return pl.DataFrame({"id": [item] * len(sha256), "sha256": list(sha256)})


def test_a_decision_stands_while_both_items_have_the_images_that_were_judged() -> None:
    decisions = Decisions.of(_review("different"), _images("l", _C, _A), _images("r", _B))

    assert decisions.different.rows() == [("l", "r")]
    assert not decisions.reopened.height


def test_a_changed_image_reopens_the_decision() -> None:
    decisions = Decisions.of(_review("different"), _images("l", _A), _images("r", _C))

    assert not decisions.different.height
    assert decisions.reopened["right_id"].to_list() == ["r"]


def test_a_decision_about_an_item_that_is_gone_neither_stands_nor_is_reopened() -> None:
    decisions = Decisions.of(_review("match"), _images("other", _A), _images("r", _B))

    assert not decisions.standing.height
    assert not decisions.reopened.height
