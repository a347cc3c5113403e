"""The lines that a local run prints about materializations."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from imgsim_assets.components.run_log import describe_materialization

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
