"""Metadata about the threshold of a result."""

from __future__ import annotations

from typing import Any

from imgsim_assets.similarity.copies_hint import ReportedThreshold, copies_hint


def describe_threshold(report: ReportedThreshold, *, finds_copies: bool = False) -> dict[str, Any]:
    """The threshold, where it comes from, and what to do where it may miss copies.

    `finds_copies` is as of `copies_hint`.
    """
    described = {"threshold": report.threshold, "threshold_source": report.threshold_source}
    hint = threshold_hint(report, finds_copies=finds_copies)
    return described if hint is None else {**described, "threshold_hint": hint}


def threshold_hint(report: ReportedThreshold, *, finds_copies: bool = False) -> str | None:
    """What to do where a threshold may miss copies; see `copies_hint`."""
    return copies_hint(report, _as_key, finds_copies=finds_copies)


def _as_key(setting: str) -> str:
    return f"'{setting}'"
