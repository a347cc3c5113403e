"""The lines that a local run prints about materializations."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from imgsim_assets.components.metadata import counts_table
from imgsim_assets.components.run_log import (
    advice,
    describe_failed_check,
    describe_materialization,
)

_RESULT = {"dagster/row_count": 2, "changed": True}
_EXACT = {"method": "exact", "threshold": 0.8, "threshold_source": "declared"}
_APPROXIMATE = {"method": "approximate", "threshold": 0.85, "threshold_source": "auto"}


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ({}, "m: materialized"),
        ({"changed": False}, "m: no rows, unchanged"),
        (_RESULT, "m: 2 rows, changed"),
        (_RESULT | _EXACT, "m: 2 rows, changed; threshold 0.8 (declared); method exact"),
        (
            _RESULT | _EXACT | {"threshold": -1.0, "threshold_source": "no lower bound"},
            "m: 2 rows, changed; no threshold; method exact",
        ),
        (_RESULT | {"method": "exact"}, "m: 2 rows, changed; no threshold; method exact"),
        (
            _RESULT | _APPROXIMATE | {"recall": 0.9864},
            "m: 2 rows, changed; threshold 0.85 (auto); method approximate, recall 0.986",
        ),
        (
            _RESULT | _APPROXIMATE | {"recall": "not measured"},
            "m: 2 rows, changed; threshold 0.85 (auto); method approximate, recall not measured",
        ),
    ],
)
def test_line_tells_rows_threshold_method_and_recall(metadata: dict[str, Any], line: str) -> None:
    assert describe_materialization(dg.AssetMaterialization("m", metadata=metadata)) == line


_IMAGES: dict[str, Any] = _RESULT | {
    "statuses": counts_table({"ok": 2, "http_404": 1200, "timeout": 1}, "status")
}


def test_line_counts_failures_by_status_and_advice_has_the_action_for_each() -> None:
    images = dg.AssetMaterialization("m", partition="001", metadata=_IMAGES)

    line = "m[001]: 2 rows, changed; 1,200 http_404; 1 timeout"
    assert describe_materialization(images) == line
    assert list(advice(images)) == [
        "http_404: fix the URL",
        "timeout: raise timeout_s for slow hosts",
    ]


def test_summary_of_a_catalog_repeats_no_failures() -> None:
    summary = {"statuses": _IMAGES["statuses"]}
    assert list(advice(dg.AssetMaterialization("status", metadata=summary))) == []


def test_advice_about_vectors_is_that_of_the_encoder() -> None:
    statuses = counts_table({"zero_vector": 1, "of_another_version": 1}, "status")
    metadata: dict[str, Any] = _RESULT | {"encoder": "e", "statuses": statuses}
    embeddings = dg.AssetMaterialization("m", metadata=metadata)

    assert describe_materialization(embeddings).endswith("; 1 of_another_version; 1 zero_vector")
    assert list(advice(embeddings)) == [
        "zero_vector: leave the image out, or use another encoder",
    ]


def test_advice_has_the_hint_about_a_threshold() -> None:
    metadata: dict[str, Any] = _RESULT | _EXACT | {"threshold_hint": "accept more 'false_matches'"}
    assert list(advice(dg.AssetMaterialization("m", metadata=metadata))) == [
        "accept more 'false_matches'"
    ]


@pytest.mark.parametrize(
    ("severity", "partition", "description", "line"),
    [
        ("WARN", None, r"lost \[a\_b\]", "m/x: check complete failed (warn): lost [a_b]"),
        ("ERROR", "001", "two\nlines", "m/x[001]: check complete failed (error): two lines"),
        ("ERROR", None, None, "m/x: check complete failed (error)"),
    ],
)
def test_line_of_a_failed_check_has_severity_and_message(
    severity: str, partition: str | None, description: str | None, line: str
) -> None:
    evaluation = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(["m", "x"]),
        check_name="complete",
        passed=False,
        severity=dg.AssetCheckSeverity[severity],
        description=description,
        partition=partition,
    )
    assert describe_failed_check(evaluation) == line
