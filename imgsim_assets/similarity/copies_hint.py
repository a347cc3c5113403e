"""What is said of an automatic threshold that near copies may have made too strict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

# Different images are rarely this near.
_STRICT = 0.99


class ReportedThreshold(Protocol):
    """A report with a threshold."""

    @property
    def threshold(self) -> float | None:
        """The minimum similarity of a pair."""

    @property
    def threshold_source(self) -> str:
        """Where the threshold comes from, in words."""

    @property
    def threshold_is_measured(self) -> bool:
        """Whether it was measured on the images that are compared."""

    @property
    def evidence(self) -> object:
        """What decides instead of the threshold, or None."""


def copies_hint(
    report: ReportedThreshold, option: Callable[[str], str], *, finds_copies: bool = False
) -> str | None:
    """How to find copies that a measured threshold may miss; None where there is no sign of it.

    Near copies are the false matches that such a threshold avoids. A sign of it is a threshold of
    at least 0.99.

    Args:
        report: of the result.
        option: names a setting as its reader writes it, such as "--false-matches".
        finds_copies: whether copies are what the result is about; then it is always said.
    """
    if not report.threshold_is_measured or report.evidence is not None:
        return None
    if report.threshold is None or (report.threshold < _STRICT and not finds_copies):
        return None
    evidence, budget, threshold = map(option, ("evidence", "false_matches", "threshold"))
    return (
        "near copies make an automatic threshold stricter: to find them all, compare the images "
        f"themselves with {evidence}, accept more {budget}, or give {threshold} a number"
    )
