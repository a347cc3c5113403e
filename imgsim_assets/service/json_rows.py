"""Rows of a table as JSON has them: dates as text, no NaN, no binary columns."""

from __future__ import annotations

import math
from datetime import date, datetime, time
from typing import Any

import polars as pl
import polars.selectors as cs


def json_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as values of JSON; binary columns are left out."""
    plain = frame.select(~cs.binary() & ~cs.object())
    converted = [name for name, dtype in plain.schema.items() if not _is_plain(dtype)]
    rows = plain.to_dicts()
    for row in rows:
        for name in converted:
            row[name] = _json(row[name])
    return rows


def _is_plain(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype in (pl.String, pl.Boolean, pl.Null)


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value if isinstance(value, str | int | None) else str(value)
