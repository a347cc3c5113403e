from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from imgsim_assets.similarity.settings import GraphSettings, MatchSettings


def test_default_mode_is_best_and_default_graph_k_is_ten() -> None:
    assert MatchSettings() == MatchSettings(mode="best", threshold="recommended", k=None)
    assert GraphSettings() == GraphSettings(k=10, threshold=None)
    for declared in (MatchSettings(), GraphSettings()):
        assert (declared.compare, declared.max_shared, declared.within) == ("any", 20, ())


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "all", "threshold": -1},
        {"mode": "mutual", "threshold": 1},
        {"mode": "top_k", "k": 1},
        {"mode": "top_k", "k": 1000},
        {"compare": "mean_best", "threshold": 0.5},
        {"max_shared": None, "within": ("brand", "size")},
        {"ignore": {"list": "data/ignore.csv", "min_similarity": None}},
    ],
)
def test_documented_settings_are_accepted(values: dict[str, Any]) -> None:
    assert MatchSettings(**values).model_dump(include=set(values)) == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "top_k"}, "k: mode top_k needs it"),
        ({"mode": "best", "k": 3}, "k: mode best has none; remove it, or set 'mode: top_k'"),
        ({"mode": "mutual", "k": 1}, "k: mode mutual has none"),
        ({"mode": "top_k", "k": 0}, "0 is too small; write 1 to 1000"),
        ({"mode": "top_k", "k": 1001}, "1001 is too large; write 1 to 1000"),
        (
            {"compare": "mean_best", "threshold": None},
            "compare: mean_best needs a threshold, such as 'threshold: recommended'",
        ),
        ({"compare": "all"}, "'any', 'first' or 'mean_best'"),
        ({"max_shared": 0}, "0 is too small; write a number of at least 1"),
        ({"within": "brand"}, "'brand' is not a list; write one, such as [brand]"),
        ({"ignore": {"min_similarity": 0.9}}, "list"),
        ({"mode": "nearest"}, "'all', 'best', 'top_k', 'mutual' or 'one_to_one'"),
        (
            {"threshold": 1.01},
            "1.01 is not a cosine; give -1 to 1, auto or recommended",
        ),
        ({"threshold": -1.01}, "-1.01 is not a cosine"),
        ({"threshold": float("nan")}, "threshold"),
        ({"treshold": 0.5}, "unknown key 'treshold': did you mean 'threshold'"),
    ],
)
def test_invalid_match_settings_are_rejected_with_the_reason(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        MatchSettings.model_validate(values)

    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "0 is too small; write 1 to 1000"),
        ({"k": 1001}, "1001 is too large; write 1 to 1000"),
        ({"threshold": 2}, "2 is not a cosine"),
        ({"neighbors": 5}, "unknown key 'neighbors'"),
    ],
)
def test_invalid_graph_settings_are_rejected_with_the_reason(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        GraphSettings.model_validate(values)

    assert message in str(refusal.value)
