"""Inputs that could not be used, as rows, a warning or an error."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from imgsim_assets.errors import SettingsError
from imgsim_assets.search.item_rows import ItemRows
from imgsim_assets.text import counted, printable_line

FAILURES_SCHEMA = {
    "label": pl.String,
    "image": pl.Int32,
    "status": pl.String,
    "detail": pl.String,
}
_MAX_LISTED = 3


@dataclass(frozen=True)
class Failure:
    """An image that could not be used: its row, its name in messages, and the reason."""

    position: int
    name: str
    status: str
    detail: str


def failures_frame(failures: Sequence[Failure], labels: pl.Series, rows: ItemRows) -> pl.DataFrame:
    """Failures with the label and the number of each image, as FAILURES_SCHEMA."""
    values = [
        (
            str(labels[int(rows.item[failure.position])]),
            int(rows.image[failure.position]),
            failure.status,
            failure.detail,
        )
        for failure in failures
    ]
    return pl.DataFrame(values, schema=FAILURES_SCHEMA, orient="row")


def report_failures(
    failures: Sequence[Failure], rows: ItemRows, argument: str, *, ignore_failure: bool
) -> None:
    """Warn of failures among rows; SettingsError if all failed or none may fail."""
    if not failures:
        return
    listed = "; ".join(
        f"{printable_line(failure.name)}: {failure.status}, {failure.detail}"
        for failure in failures[:_MAX_LISTED]
    )
    if len(failures) > _MAX_LISTED:
        listed += f" and {len(failures) - _MAX_LISTED} more"
    message = (
        f"{argument}: {len(failures)} of {counted(len(rows), 'image')} cannot be used ({listed})"
    )
    if len(failures) == len(rows):
        raise SettingsError(f"{message}; give at least one valid image")
    if not ignore_failure:
        raise SettingsError(f"{message}; fix or omit them, or set ignore_failure=True")
    without_image = _items_without_image(failures, rows) if rows.has_numbers else ""
    warnings.warn(f"{message}; they are omitted{without_image}", stacklevel=_caller_stacklevel())


def _items_without_image(failures: Sequence[Failure], rows: ItemRows) -> str:
    """How many items have no usable image, for a message."""
    is_usable = np.ones(len(rows), np.bool_)
    is_usable[[failure.position for failure in failures]] = False
    items = len(np.unique(rows.item))
    omitted = items - len(np.unique(rows.item[is_usable]))
    return f", and {omitted} of {counted(items, 'item')} without another image" if omitted else ""


def _caller_stacklevel() -> int:
    """The stack level, for a warning of the calling function, of the code that uses the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith("imgsim_assets."):
        frame, level = frame.f_back, level + 1
    return level
