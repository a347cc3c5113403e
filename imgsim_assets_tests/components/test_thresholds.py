from __future__ import annotations

from typing import NamedTuple

import pytest

from imgsim_assets.components.checks import asset_check
from imgsim_assets.components.thresholds import describe_threshold, threshold_hint
from imgsim_assets.pipeline.check_result import CheckResult


class Report(NamedTuple):
    threshold: float | None
    threshold_source: str = "auto"
    threshold_is_measured: bool = True
    evidence: object = None


@pytest.mark.parametrize(
    ("report", "finds_copies", "has_hint"),
    [
        (Report(0.99), False, True),
        (Report(0.98), False, False),
        (Report(0.5), True, True),
        (Report(0.99, threshold_is_measured=False), True, False),
        (Report(0.99, evidence=object()), True, False),
        (Report(None), True, False),
    ],
)
def test_metadata_of_a_threshold_that_may_miss_copies_says_what_to_set(
    report: Report, *, finds_copies: bool, has_hint: bool
) -> None:
    metadata = describe_threshold(report, finds_copies=finds_copies)

    assert (metadata["threshold"], metadata["threshold_source"]) == (report.threshold, "auto")
    assert ("threshold_hint" in metadata) == has_hint
    if has_hint:
        assert "accept more 'false_matches'" in metadata["threshold_hint"]


def test_check_that_passes_has_the_hint_and_one_that_fails_its_problem() -> None:
    hint = threshold_hint(Report(0.995))
    assert hint is not None

    passed = asset_check("groups_coherent", CheckResult(), hint=hint)
    failed = asset_check("groups_coherent", CheckResult(problem="broken"), hint=hint)

    assert (passed.passed, failed.passed) == (True, False)
    assert "accept more 'false" in str(passed.description)
    assert failed.description == "broken"
    assert asset_check("groups_coherent", CheckResult()).description is None
