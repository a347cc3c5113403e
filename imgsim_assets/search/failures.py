"""Inputs that could not be used, as rows, a warning or an error."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from imgsim_assets.errors import SettingsError
from imgsim_assets.text import printable_line

FAILURES_SCHEMA = {"label": pl.String, "status": pl.String, "detail": pl.String}
_MAX_LISTED = 3


@dataclass(frozen=True)
class Failure:
    """An input that could not be used: its position, its name in messages, and the reason."""

    position: int
    name: str
    status: str
    detail: str


def failures_frame(failures: Sequence[Failure], labels: pl.Series) -> pl.DataFrame:
    """Failures with the labels of their positions, as FAILURES_SCHEMA."""
    rows = [(str(labels[item.position]), item.status, item.detail) for item in failures]
    return pl.DataFrame(rows, schema=FAILURES_SCHEMA, orient="row")


def report_failures(
    failures: Sequence[Failure], total: int, argument: str, *, ignore_failure: bool
) -> None:
    """Warn of failures among `total` inputs; SettingsError if all failed or none may fail."""
    if not failures:
        return
    listed = "; ".join(
        f"{printable_line(failure.name)}: {failure.status}, {failure.detail}"
        for failure in failures[:_MAX_LISTED]
    )
    if len(failures) > _MAX_LISTED:
        listed += f" and {len(failures) - _MAX_LISTED} more"
    message = f"{argument}: {len(failures)} of {total} images cannot be used ({listed})"
    if len(failures) == total:
        raise SettingsError(f"{message}; give at least one valid image")
    if not ignore_failure:
        raise SettingsError(f"{message}; fix or omit them, or set ignore_failure=True")
    warnings.warn(f"{message}; they are omitted", stacklevel=_caller_stacklevel())


def _caller_stacklevel() -> int:
    """The stack level, for a warning of the calling function, of the code that uses the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith("imgsim_assets."):
        frame, level = frame.f_back, level + 1
    return level
